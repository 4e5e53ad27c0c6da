from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.scoring.judge import Judge


@pytest.fixture
def orchard(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose `weights` are tiny networks under the names of the shipped ones."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for kind in ("unet", "text", "vae", "kg"):
        shutil.copy(tiny_weights / f"tiny-{kind}.safetensors", folder / f"orchard-{kind}.safetensors")
    config = {"width": 4, "features": 8}
    with torch.random.fork_rng(devices=[]):
        judge = Judge(**config)
    save_bundle(folder / "orchard-judge.safetensors", judge.state_dict(), BundleInfo("judge", config=config))
    monkeypatch.setattr(paths, "weights_dirs", lambda: [folder])
    return tmp_path
