"""The tiny bundles under the names of the shipped ones, so that shipped graphs run in a second."""

from __future__ import annotations

from pathlib import Path

import pytest
from rapiddraw.core import paths


@pytest.fixture
def tiny_orchard(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the bundles that text_to_image names are the tiny ones."""
    weights = tmp_path / "tiny"
    weights.mkdir()
    for kind in ("unet", "text", "vae", "kg"):
        (weights / f"orchard-{kind}.safetensors").symlink_to(tiny_weights / f"tiny-{kind}.safetensors")
    (weights / "orchard-esrgan-x4.safetensors").symlink_to(tiny_weights / "tiny-esrgan.safetensors")
    monkeypatch.setattr(paths, "weights_dirs", lambda: [weights])
    monkeypatch.setattr(paths, "_dirs", {})
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work
