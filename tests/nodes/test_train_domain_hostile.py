"""Trainers on a folder, given what they cannot use: one line of text before anything is encoded."""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rapiddraw.core.errors import DataError, InputError
from rapiddraw.core.host import current
from rapiddraw.core.operations import domain_run
from rapiddraw.nodes.train_control import TrainControlAdapter
from rapiddraw.nodes.train_domain import TrainDomainModel
from rapiddraw.nodes.train_image_tokens import TrainImageTokens
from rapiddraw.nodes.train_kronecker import TrainKroneckerAdapter
from rapiddraw.nodes.train_pair import TrainTimeDecoupledPair
from rapiddraw.tests.nodes.test_train_domain_node import KINDS, SETTINGS, pictures

CONTROL = {"conditions": "edges", "maps": "drawn from the pictures", "format": "dense", "ratio": 0.5}
TOKENS = {"tokens": 2, "hidden": 8, "reading": 1, "tower_name": "tiny-image.safetensors"}
NODES = {
    "domain": (TrainDomainModel, {}),
    "pair": (TrainTimeDecoupledPair, {"t_struct": 500}),
    "kronecker": (TrainKroneckerAdapter, {}),
    "control": (TrainControlAdapter, CONTROL),
    "image tokens": (TrainImageTokens, TOKENS),
}
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def parts(tiny_weights, tiny_pack):
    return current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in KINDS))


@pytest.fixture(params=sorted(NODES))
def train(request, parts, monkeypatch):
    """Train on the folder `bad` by one of the nodes; it is an error to encode a picture."""
    node, more = NODES[request.param]
    monkeypatch.setattr(domain_run, "encode_pictures", lambda *_: pytest.fail("encoded first"))
    settings = {**SETTINGS, "folder": "bad", "subject": "x", **more}
    return lambda given=parts, **changes: node().execute(*given, **{**settings, **changes})


def huge(path):
    """A PNG of a few bytes that says it has 60000 x 60000 pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = struct.pack(">I", 4) + b"IDAT" + bytes(4) + struct.pack(">I", zlib.crc32(b"IDAT" + bytes(4)))
    path.write_bytes(SIGNATURE + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data)


def one_line(train, error, words, **changes):
    with pytest.raises(error, match=words) as raised:
        train(**changes)
    assert "\n" not in str(raised.value)


def test_one_picture(train, tiny_pack):
    pictures(tiny_pack / "input" / "bad", "a.png")
    one_line(train, DataError, "holds 1 picture")


def test_no_captions_and_no_subject(train, tiny_pack):
    pictures(tiny_pack / "input" / "bad", "a.png", "b.png", "c.png")
    one_line(train, DataError, "have no caption", subject="")


def test_pictures_of_one_pixel(train, tiny_pack):
    pictures(tiny_pack / "input" / "bad", "a.png", "b.png", "c.png", size=(1, 1))
    one_line(train, DataError, "1 x 1 pixels")


def test_a_huge_picture(train, tiny_pack):
    pictures(tiny_pack / "input" / "bad", "a.png", "b.png", "c.png")
    huge(tiny_pack / "input" / "bad" / "d.png")
    one_line(train, DataError, "60000|3600000000 pixels")


def test_no_memory(train, tiny_pack, monkeypatch):
    pictures(tiny_pack / "input" / "bad", "a.png", "b.png", "c.png")
    monkeypatch.setattr("rapiddraw.core.operations.domain.free_memory", lambda _: 1000)
    one_line(train, InputError, "GB are free on cpu")


def test_no_disk(train, tiny_pack, monkeypatch):
    pictures(tiny_pack / "input" / "bad", "a.png", "b.png", "c.png")
    monkeypatch.setattr(domain_run.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    one_line(train, InputError, "0 MB are free on the disk")


def test_a_base_that_does_not_fit(train, parts, tiny_pack, tmp_path):
    from rapiddraw.core.bundles.format import LatentSpace
    from rapiddraw.tests.helpers import write_text, write_vae

    pictures(tiny_pack / "input" / "bad", "a.png", "b.png", "c.png")
    model, clip, vae = parts
    other = current().vae.load(write_vae(tmp_path / "vae.safetensors", latent=LatentSpace(8, 8), latent_channels=8))
    one_line(train, InputError, "link the VAE of the model", given=(model, clip, other))
    wide = current().clip.load(write_text(tmp_path / "text.safetensors", width=64))
    one_line(train, InputError, "link the CLIP that belongs", given=(model, wide, vae))


@pytest.mark.parametrize("name", sorted(NODES))
def test_mixed_sizes_cmyk_and_sixteen_bits_are_trained_on(parts, tiny_pack, name):
    folder, (node, more) = tiny_pack / "input" / "bad", NODES[name]
    pictures(folder, "a.png", "b.png", size=(40, 30))
    pictures(folder, "c.jpg", mode="CMYK", size=(30, 44))
    pictures(folder, "d.png", mode="I;16", size=(33, 33))
    Image.new("P", (90, 31), 3).save(folder / "e.png")
    with torch.inference_mode():
        made = node().execute(*parts, **{**SETTINGS, "folder": "bad", "subject": "x", "steps": 2, **more})
    assert "2 steps on 5 pictures" in made["ui"]["text"][0]
