from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
import torch
from PIL import Image
from rapiddraw.core.image.png import DIGITAL_SOURCE_TYPE, is_marked, write_marked_png


def test_a_file_says_that_it_is_ai_generated_and_carries_its_graph(tmp_path):
    prompt, workflow = {"1": {"class_type": "A", "inputs": {"text": "\u679c"}}}, {"nodes": []}
    path = write_marked_png(tmp_path / "deep" / "x.png", torch.full((8, 6, 3), 0.5), prompt, {"workflow": workflow})
    assert is_marked(path)
    with Image.open(path) as image:
        image.load()
        assert image.size == (6, 8) and image.getpixel((0, 0)) == (127, 127, 127)
        assert json.loads(image.info["prompt"]) == prompt and json.loads(image.info["workflow"]) == workflow
        assert image.info["Software"] == "RapidDraw" and image.info["digital_source_type"] == DIGITAL_SOURCE_TYPE
        packet = image.info["XML:com.adobe.xmp"]
    (description,) = ET.fromstring(packet.lstrip("\ufeff")).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")  # noqa: S314 (our own)
    assert description.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"] == DIGITAL_SOURCE_TYPE


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_marked_png(tmp_path / "x.png", torch.zeros(4, 4, 3))
    assert list(tmp_path.iterdir()) == []


def test_an_unmarked_file_is_told_apart(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    assert not is_marked(tmp_path / "plain.png")
