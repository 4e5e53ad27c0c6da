"""`data filter` by one's own CLIP, CLIP Vision model and aesthetic head: what the node does, and its early errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rapiddraw.cli import main
from rapiddraw.core.host import current
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.text.clip_vision import load_clip_vision
from rapiddraw.nodes.dataset import FilterDataset
from rapiddraw.tests.nodes.test_dataset_nodes import LIMITS
from safetensors.torch import save_file


@pytest.fixture
def fruit(tiny_pack: Path) -> Path:
    return write_dataset("train", 4, 64, tiny_pack / "input" / "fruit")


@pytest.fixture
def networks(tiny_weights: Path, tiny_pack: Path) -> dict[str, str]:
    """Options of a CLIP, a CLIP Vision model that belongs to it, and a head that scores all pictures alike."""
    head = tiny_pack / "my-head.safetensors"
    save_file({"weight": torch.zeros(1, 16), "bias": torch.tensor([4.5])}, head)
    return {
        "--clip": str(tiny_weights / "tiny-text.safetensors"), "--clip-vision": str(tiny_weights / "tiny-image.safetensors"),
        "--aesthetic-head": str(head),
    }  # fmt: skip


def options(*chosen: dict[str, str]) -> list[str]:
    return [word for one in chosen for pair in one.items() for word in pair]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "filter.jsonl").read_text(encoding="utf-8").splitlines()]


def test_it_measures_what_the_node_measures(
    fruit: Path, networks: dict[str, str], tiny_pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"--min-clip": "-0.99", "--min-score": "4", "--max-likeness": "0.999"}
    assert main(["data", "filter", str(fruit), "--out", str(tiny_pack / "by-command"), *options(networks, limits)]) == 0
    said = capsys.readouterr().out
    assert "of 4 pictures in by-command/" in said and "score: 4.500 to 4.500" in said and "clip: " in said
    assert "plain colours rightly: they may not have been trained together" in said
    (tiny_pack / "weights").mkdir()
    vision = load_clip_vision(Path(networks["--clip-vision"]), torch.device("cpu"))
    clip = current().clip.load(Path(networks["--clip"]))
    given = {**LIMITS, "min_clip": -0.99, "max_likeness": 0.999, "clip": clip, "clip_vision": vision}
    with torch.inference_mode():
        FilterDataset().execute("fruit", "by-node", **given)
    ours = [{**row, "values": {key: one for key, one in row["values"].items() if key != "score"}} for row in rows(tiny_pack / "by-command")]
    assert ours == rows(tiny_pack / "output" / "by-node")


def test_a_head_leaves_out_and_is_found_by_its_name(
    fruit: Path, networks: dict[str, str], tiny_pack: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rapiddraw.core import paths

    monkeypatch.setattr(paths, "weights_dirs", lambda: [tiny_pack])
    monkeypatch.chdir(tiny_pack / "temp")
    vision = {"--clip-vision": networks["--clip-vision"], "--aesthetic-head": "my-head.safetensors"}
    assert main(["data", "filter", str(fruit), *options(vision), "--min-score", "5"]) == 0
    assert "kept 0 of 4" in capsys.readouterr().out
    assert main(["data", "filter", str(fruit), *options(vision, {"--aesthetic-head": "none.pth"}), "--min-score", "5"]) != 0
    assert "no file named 'none.pth'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chosen", "limits", "said"),
    [
        (["--clip"], {"--min-clip": "0.1"}, "--clip needs --clip-vision"),
        (["--aesthetic-head"], {}, "--aesthetic-head needs --clip-vision"),
        ([], {"--max-likeness": "0.9"}, "--max-likeness needs --clip-vision"),
        (["--clip", "--aesthetic-head"], {"--min-clip": "0.1"}, "--clip and --aesthetic-head need --clip-vision"),
        (["--clip-vision"], {"--min-score": "4"}, "--min-score needs --aesthetic-head"),
        (["--clip-vision"], {"--max-likeness": "2"}, "likeness=2.0: expected 0 to 1"),
        (["--clip-vision"], {"--min-score": "-1"}, "score=-1.0: expected 0 to 100"),
        (["--clip-vision"], {"--out": "{folder}"}, "lies in"),
        (["--clip-vision"], {"--min-clip": "0.1"}, "--min-clip needs --scorer"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_a_network_is_loaded(
    fruit: Path, networks: dict[str, str], chosen: list[str], limits: dict[str, str], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("text.clip_vision.load_clip_vision", "host.embedded.clip_file.load_clip", "scoring.vision.load_head"):
        monkeypatch.setattr(f"rapiddraw.core.{name}", lambda *_: pytest.fail("a network was loaded"))
    given = {key: value.format(folder=fruit) for key, value in limits.items()}
    assert main(["data", "filter", str(fruit), *options({name: networks[name] for name in chosen}, given)]) != 0
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_networks_that_do_not_fit_are_refused_before_a_picture_is_measured(
    fruit: Path, networks: dict[str, str], tiny_pack: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapiddraw.core.data.filters._Measurer.__call__", lambda *_: pytest.fail("measured first"))
    save_file({"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}, tiny_pack / "other.safetensors")
    vision = {"--clip-vision": networks["--clip-vision"]}
    for more, said in (
        ({"--aesthetic-head": str(tiny_pack / "other.safetensors")}, "scores embeddings of 8 features and the CLIP_VISION gives 16"),
        ({"--aesthetic-head": networks["--clip"]}, "is no aesthetic head"),
        ({"--clip": networks["--clip-vision"], "--min-clip": "0.1"}, "tiny-image.safetensors"),
        ({"--clip": str(tiny_pack / "gone.safetensors"), "--min-clip": "0.1"}, "gone.safetensors: expected a .safetensors file"),
    ):
        assert main(["data", "filter", str(fruit), *options(vision, more)]) != 0
        assert said in capsys.readouterr().err
    assert main(["data", "filter", str(tiny_pack / "nowhere"), *options(vision)]) != 0
    assert "nowhere" in capsys.readouterr().err
