"""Style guidance, attention entropy and control adapters with every family, inside ComfyUI; see probe_families_guidance.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

JOINT = {"Flux", "Flux schnell", "Flux 2", "Chroma", "HunyuanVideo", "HunyuanImage 2.1", "Qwen-Image"}
UNETS = {"SD 1.5", "SD 1.5 inpainting", "SD 2", "SDXL", "Playground 2.5"}
UNKNOWN_WIDTH = {"HiDream"}
"""Families whose tokens have several widths, or none that their settings name."""


@pytest.fixture(scope="module")
def found(weights: Path, run_inside: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    from rapiddraw.tests.helpers import write_control

    write_control(weights / "tiny-control.safetensors", weights / "tiny-unet.safetensors")
    return run_inside("probe_families_guidance.py", weights)


@pytest.mark.parametrize("case", ["masked", "references"])
def test_a_style_that_is_the_prompt_changes_nothing(found: dict[str, Any], case: str) -> None:
    assert len(found[case]) >= 20 and len(found["stock"]) <= 3, found["stock"]
    assert {name: said for name, said in found[case].items() if isinstance(said, str) or said > 1e-4} == {}


def test_another_style_acts(found: dict[str, Any]) -> None:
    assert {name: said for name, said in found["acts"].items() if isinstance(said, str) or said < 1e-6} == {}


def test_entropy_is_scaled_where_queries_can_be_and_else_refused(found: dict[str, Any]) -> None:
    for name, said in found["entropy"].items():
        if isinstance(said, str):
            assert name not in UNETS and said.startswith("InputError: Attention Entropy Scale") and "\n" not in said, (name, said)
        else:
            assert name in JOINT | UNETS and said[0] == 0 and said[1] > 1e-6, (name, said)


def test_a_control_adapter_refuses_every_other_family_in_one_line(found: dict[str, Any]) -> None:
    """It is an adapter of a small U-Net; those of SD 1.5 and SD 2 have its shape here, and SDXL's reads a pooled text that it does not."""
    served = {name: said for name, said in found["control"].items() if not str(said).startswith("InputError") or "\n" in str(said)}
    assert served.keys() == {"SD 1.5", "SD 2"}, served


def test_widths_of_tokens_and_of_the_pooled_state_are_known(found: dict[str, Any]) -> None:
    for name, (width, given, pooled, wanted) in found["variation"].items():
        assert width in (given, None) and (width == given or name in UNKNOWN_WIDTH), name
        assert pooled == wanted or name == "Chroma", name  # Chroma's settings name a width that it does not use
