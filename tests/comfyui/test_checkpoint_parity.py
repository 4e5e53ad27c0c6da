"""Checkpoints of SD 1.5 and SDXL: the embedded host reads, encodes and draws what ComfyUI does. See probe_checkpoint.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rapiddraw.tests import sd_helpers, sd_layout

SAME = 2e-5  # the largest relative difference that rounding may make
LEAST_PSNR = 40.0


@pytest.fixture(scope="module")
def found(run_inside: Callable[[str, Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Differences by checkpoint: an SD 1.5 with a small U-Net, and a narrow SDXL."""
    folder = tmp_path_factory.mktemp("checkpoints")
    sd_helpers.write_single_file(folder / "sd15.safetensors", sd_helpers.compact_sd15(), dtype=torch.float16)
    sdxl = sd_helpers.narrow_sdxl(sd_helpers.CLIP_TOKENS, sd_layout.vae(sd_helpers.VAE_WIDTHS))
    sd_helpers.write_single_file(folder / "sdxl.safetensors", sdxl, seed=1)
    return run_inside("probe_checkpoint.py", folder)


@pytest.mark.parametrize("checkpoint", ["sd15", "sdxl"])
def test_the_embedded_host_computes_what_comfyui_does(found: dict[str, Any], checkpoint: str) -> None:
    differences = {name: value for name, value in found[checkpoint].items() if name not in ("rows", "psnr", "spread")}
    assert found[checkpoint]["rows"], "texts become other tokens"
    assert len(differences) == 8 and {name: value for name, value in differences.items() if not value < SAME} == {}


@pytest.mark.parametrize("checkpoint", ["sd15", "sdxl"])
def test_the_pictures_are_the_same(found: dict[str, Any], checkpoint: str) -> None:
    assert found[checkpoint]["psnr"] >= LEAST_PSNR and found[checkpoint]["spread"] > 0.01
