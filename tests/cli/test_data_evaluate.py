"""`data evaluate` on folders: the numbers of given networks under their own names, and its errors before any picture is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rapiddraw.cli import main
from rapiddraw.core import paths
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.metrics.folders import Published, evaluate_folder
from rapiddraw.core.scoring.inception import WIDTH
from rapiddraw.tests.core.scoring import test_inception, test_open_clip_score

COLOURS = ("red", "green", "blue")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures of plain colours and their captions, other pictures, weights, and small networks for the packages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "weights_dirs", lambda: [tmp_path / "models"])
    (tmp_path / "models").mkdir()
    test_inception.fake_torch_fidelity(monkeypatch)
    test_open_clip_score.fake_open_clip(monkeypatch)
    test_inception.weights(tmp_path / "inception.pth")
    test_open_clip_score.weights(tmp_path / "models" / "clip.safetensors")
    rng = np.random.default_rng(0)
    for name, count in (("drawn", 6), ("real", 5), ("one", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = np.full((20, 20, 3), np.eye(3)[i % 3] * 255) if name == "drawn" else rng.integers(0, 255, (24, 20, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    for i in range(6):
        (tmp_path / "drawn" / f"{i}.txt").write_text(f"{COLOURS[i % 3]}\nnothing like it", encoding="utf-8")
    return tmp_path


def no_picture_is_read(patch: pytest.MonkeyPatch) -> None:
    def pixels(self: ImageFolder, index: int) -> None:
        pytest.fail("a picture was read before the error")

    patch.setattr(ImageFolder, "pixels", pixels)


def test_both_numbers_under_the_names_of_their_networks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--against", "real", "--inception", "inception.pth", "--open-clip", "ViT-B-32=clip.safetensors"]
    assert main(["data", "evaluate", "drawn", *chosen]) == 0
    said = capsys.readouterr().out
    assert "FID (Inception, torch-fidelity): " in said and "6 pictures against 5" in said
    assert f"WARNING: 5 pictures are fewer than {WIDTH}, so the number is biased" in said
    assert "CLIP score (open_clip ViT-B-32): 1.0000" in said, "the first captions name the colours"
    assert main(["data", "evaluate", "drawn", "--against", "drawn", "--inception", "inception.pth"]) == 0
    same = capsys.readouterr().out
    assert "torch-fidelity): 0.0000" in same.replace("-0.0000", "0.0000") and "CLIP" not in same
    assert main(["data", "evaluate", "drawn", "--open-clip", "ViT-B-32=clip.safetensors"]) == 0
    assert "FID" not in capsys.readouterr().out


def test_enough_pictures_give_no_warning(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("rapiddraw.core.metrics.folders.WIDTH", 5)
    scores = evaluate_folder(Path("drawn"), Path("real"), Published("inception.pth"), torch.device("cpu"))
    assert "WARNING" not in scores.report() and scores["FID (Inception, torch-fidelity)"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("drawn", "nothing to measure with"),
        ("drawn --inception inception.pth", "the FID needs both"),
        ("drawn --against real", "nothing to measure with"),
        ("drawn --against real --open-clip ViT-B-32=clip.safetensors", "the FID needs both"),
        ("drawn --open-clip clip.safetensors", "expected NAME=FILE"),
        ("drawn --open-clip ViT-B-32=", "expected NAME=FILE"),
        ("drawn --open-clip ViT-B=clip.safetensors", "no model 'ViT-B'"),
        ("drawn --open-clip ViT-B-32=missing.pt", "no file 'missing.pt': expected weights of open_clip's ViT-B-32"),
        ("drawn --against real --inception no/missing.pth", "nothing is downloaded (searched: no)"),
        ("drawn --against real --inception missing.pth", "weights-inception-2015-12-05-6726825d.pth"),
        ("drawn --against real --inception models/clip.safetensors", "clip.safetensors is not a checkpoint"),
        ("drawn --against one --inception inception.pth", "one holds one picture"),
        ("one --against real --inception inception.pth", "one holds one picture"),
        ("real --open-clip ViT-B-32=clip.safetensors", "has no caption"),
        ("absent --open-clip ViT-B-32=clip.safetensors", "no such folder"),
        ("drawn --against models --inception inception.pth", "holds no images"),
    ],
)
def test_errors_come_before_the_work(
    words: str, said: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_picture_is_read(monkeypatch)
    assert main(["data", "evaluate", *words.split()]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("error:") == 1, error


@pytest.mark.parametrize(("module", "package"), [("torch_fidelity", "torch-fidelity"), ("open_clip", "open_clip_torch")])
def test_a_missing_package_is_named_before_the_work(
    module: str, package: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_picture_is_read(monkeypatch)
    monkeypatch.setitem(sys.modules, module, None)
    chosen = ["--against", "real", "--inception", "inception.pth", "--open-clip", "ViT-B-32=clip.safetensors"]
    assert main(["data", "evaluate", "drawn", *chosen]) != 0
    assert f"needs the package {package}" in capsys.readouterr().err


def test_the_packages_are_not_imported_until_they_are_needed() -> None:
    code = "import sys; import rapiddraw.core.metrics.folders; sys.exit(bool({'torch_fidelity', 'open_clip'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == 0  # noqa: S603
