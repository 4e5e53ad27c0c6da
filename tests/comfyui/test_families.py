"""Small models of many families, made by ComfyUI's own classes; see families.py and probe_families.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NEWER = ["Anima", "Krea 2", "Ernie Image", "JoyImage", "CogVideoX"]  # ComfyUI 0.8.0 lacks them; 0.18.1 has the first


@pytest.fixture(scope="module")
def families(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    return run_inside("probe_families.py", weights)


def test_there_are_twenty_families_and_more(families: dict[str, Any]) -> None:
    assert len(families["families"]) >= 20 and set(families["lacks"]) <= set(NEWER)


def test_every_family_is_sampled(families: dict[str, Any]) -> None:
    for name, found in families["families"].items():
        assert found["shape"] == found["wanted"] and found["finite"] and found["spread"] > 0.01, name
        assert found["weights"] < 16e6, name


def test_the_table_knows_which_families_are_flow_models(families: dict[str, Any]) -> None:
    for name, found in families["families"].items():
        assert found["flow"][0] == found["flow"][1], name


def test_the_stand_in_keeps_a_latents_colours(families: dict[str, Any]) -> None:
    for name, found in families["families"].items():
        assert found["encoded"] == found["wanted"] and found["kept"] < 1e-4, name
        assert found["picture"][-1] == 3 and len(found["picture"]) == len(found["wanted"]), name
