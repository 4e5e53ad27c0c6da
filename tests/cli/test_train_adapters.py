"""`train domain_kronecker`, `domain_control` and `domain_image_tokens`: what the nodes train, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rapiddraw.cli import main
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.host import current
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.nodes.train_kronecker import TrainKroneckerAdapter
from rapiddraw.tests.core.text.test_clip_vision import file_of, vision

PARTS = [word for kind in ("unet", "text", "vae") for word in ("--set", f"{kind}=tiny-{kind}.safetensors")]
SMALL = [word for one in ("size=64", "prompts=a red fruit") for word in ("--set", one)]


@pytest.fixture
def fruit(tiny_pack: Path) -> Path:
    return write_dataset("train", 3, 64, tiny_pack / "elsewhere" / "fruit", maps=("sketch",))


def command(recipe: str, fruit: Path, *settings: str) -> list[str]:
    given = [word for one in settings for word in ("--set", one)]
    return ["train", recipe, "--data", str(fruit), "--steps", "2", "--out", "mine", *PARTS, *SMALL, *given]


def workflow(tiny_pack: Path) -> list[str]:
    """The classes of the nodes of the ready workflow."""
    ui = json.loads((tiny_pack / "output" / "workflows" / "mine.json").read_text(encoding="utf-8"))
    return sorted(node["type"] for node in ui["nodes"])


def test_a_kronecker_adapter_is_the_nodes(fruit: Path, tiny_pack: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("domain_kronecker", fruit, "rank=2")) == 0
    said, made = capsys.readouterr().out, tiny_pack / "output" / "rapiddraw" / "mine.safetensors"
    assert "2 steps on 3 pictures" in said and said.splitlines()[-1] == str(made)
    assert "RapidDrawKroneckerAdapterLoader" in workflow(tiny_pack)
    write_dataset("train", 3, 64, tiny_pack / "input" / "fruit")
    parts = current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))
    given = {
        "batch_size": 1,
        "lr": 1e-3,
        "rank": 2,
        "layers": "attention and feed-forward",
        "size": 64,
        "prompts": "a red fruit",
        "seed": 0,
    }
    with torch.inference_mode():
        TrainKroneckerAdapter().execute(*parts, folder="fruit", filename="node", steps=2, **given)
    one, other = (load_bundle(made.with_stem(name), "adapter").tensors for name in ("mine", "node"))
    assert one.keys() == other.keys() and all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_a_control_adapter_follows_the_maps_that_are_named(fruit: Path, tiny_pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("domain_control", fruit, "conditions=sketch", "format=dense", "maps=maps of the folder")) == 0
    said, made = capsys.readouterr().out, tiny_pack / "output" / "rapiddraw" / "mine.safetensors"
    assert "control adapter (dense) for sketch" in said and said.splitlines()[-1] == str(made)
    assert load_bundle(made, "control").info.config["conditions"] == ["sketch"]
    assert "RapidDrawControlAdapterApply" in workflow(tiny_pack)


@pytest.mark.parametrize("reader", ["tower", "bundle", "file"])
def test_image_tokens_by_a_tower_or_a_clip_vision_model(
    fruit: Path, tiny_pack: Path, tiny_weights: Path, tmp_path: Path, reader: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {
        "tower": "tower_name=tiny-image.safetensors", "bundle": f"clip_vision={tiny_weights / 'tiny-image.safetensors'}",
        "file": f"clip_vision={file_of(vision(), tmp_path / 'vision.safetensors')}",
    }[reader]  # fmt: skip
    run = command("domain_image_tokens", fruit, "tokens=2", "hidden=8", "reading=2", chosen)
    assert main(run) == 0
    said, made = capsys.readouterr().out, tiny_pack / "output" / "rapiddraw" / "mine.safetensors"
    told = load_bundle(made, "image_tokens").info.config["tower"]
    assert said.splitlines()[-1] == str(made) and told["kind"] == ("clip_vision" if reader == "file" else "image")
    written = workflow(tiny_pack)
    assert "RapidDrawImageVariationEncode" in written and ("CLIPVisionLoader" in written) == (reader == "file")
    assert ("vision.safetensors" in (tiny_pack / "output" / "workflows" / "mine.json").read_text(encoding="utf-8")) == (reader == "file")
    assert main(run) == 0, "the same run goes on"
    assert main([*run, "--seed", "3"]) == 1 and "seed was 0 and is 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "settings", "said"),
    [
        ("domain_kronecker", ["text_rank=2"], "does not train the text encoder"),
        ("domain_kronecker", ["ranks=2"], "did you mean rank"),
        ("domain_control", ["conditions=smell"], "conditions=smell"),
        ("domain_control", ["clip_vision=x"], "has no setting 'clip_vision'"),
        ("domain_image_tokens", ["tokens=0"], "tokens"),
        ("domain_image_tokens", ["clip_vision=gone.safetensors"], "gone.safetensors: expected a .safetensors file"),
        ("domain_image_tokens", ["tower_name=gone.safetensors"], "no image bundle named 'gone.safetensors'"),
    ],
)
def test_bad_settings_are_one_line_before_a_model_is_loaded(
    fruit: Path, recipe: str, settings: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapiddraw.core.graph.execute.execute", lambda *_: pytest.fail("a model was loaded"))
    assert main(command(recipe, fruit, *settings)) == 1
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("recipe", ["domain_kronecker", "domain_control", "domain_image_tokens"])
def test_their_settings_are_listed(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", recipe, "--settings"]) == 0
    said = capsys.readouterr().out
    assert "checkpoint=''" in said and f"python -m rapiddraw train {recipe}" in said and ("clip_vision=''" in said) == ("tokens" in recipe)
    assert "fingerprint" not in said and "reader=" not in said
