"""Pairs of a user's own checkpoints (SD 1.5 twice, SDXL and its refiner, SD 1.5 bridged to SDXL) in both hosts; see probe_user_pairs.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rapiddraw.tests import sd_helpers, sd_layout

SAME = 2e-4  # rounding, over four guided steps of random weights


@pytest.fixture(scope="module")
def found(run_inside: Callable[[str, Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the probe found of four narrow checkpoints."""
    folder, vae = tmp_path_factory.mktemp("pairs"), sd_layout.vae(sd_helpers.VAE_WIDTHS)
    shapes = {
        "sd15": sd_helpers.narrow_sd15(sd_helpers.CLIP_TOKENS, vae), "other": sd_helpers.narrow_sd15(sd_helpers.CLIP_TOKENS, vae),
        "sdxl": sd_helpers.narrow_sdxl(sd_helpers.CLIP_TOKENS, vae), "refiner": sd_helpers.narrow_refiner(sd_helpers.CLIP_TOKENS, vae),
    }  # fmt: skip
    for number, (name, parts) in enumerate(shapes.items()):
        sd_helpers.write_single_file(folder / f"{name}.safetensors", parts, seed=number)
    return run_inside("probe_user_pairs.py", folder)


def test_every_part_of_the_probe_ran(found: dict[str, Any]) -> None:
    assert [text for name, text in found.items() if name.startswith("failed")] == []


@pytest.mark.parametrize("pair", ["sd15 other", "sdxl refiner"])
def test_two_checkpoints_in_time(found: dict[str, Any], pair: str) -> None:
    assert all(found[f"ends {pair}"]), "all structure and all texture are the stock KSampler with that checkpoint, bit for bit"
    assert max(found[f"hosts {pair}"]) < SAME and found[f"differs {pair}"] > 1e-3


def test_base_and_refiner_go_with_every_sampler(found: dict[str, Any]) -> None:
    assert found["samplers"] >= 40 and found["not finite"] == []


@pytest.mark.parametrize("host", ["comfy", "embedded"])
def test_what_cannot_be_is_refused_with_the_way_out(found: dict[str, Any], host: str) -> None:
    assert found[f"refused {host}"].startswith("InputError") and "RapidDrawLatentSpaceBridge" in found[f"refused {host}"]
    assert "RapidDrawTimeDecoupledSampler" in found[f"one prompt {host}"]


@pytest.mark.parametrize("pair", ["sd15 sdxl", "sdxl sd15"])
def test_two_families_are_bridged(found: dict[str, Any], pair: str) -> None:
    assert all(found[f"apart {pair}"]), "at strength 0 each is the stock KSampler's, bit for bit"
    assert max(found[f"bridge {pair}"]) < 10 * SAME and found[f"moved {pair}"] > 1e-3
