"""Two models in time on a card that is too small for both, under ComfyUI's own memory management; see probe_memory.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SLACK = 1.001


@pytest.fixture(scope="module", params=["narrow", pytest.param("sd15", marks=pytest.mark.slow)])
def memory(request: pytest.FixtureRequest, run_inside: Callable[..., dict[str, Any]], weights: Path) -> dict[str, Any]:
    return run_inside("probe_memory.py", weights, request.param)


def test_a_large_card_holds_both(memory: dict[str, Any]) -> None:
    assert memory["held with room"] == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("card", ["one and a half", "one", "half a model"])
def test_a_small_card_never_holds_more_than_stock_samplers_in_turn_would(memory: dict[str, Any], card: str) -> None:
    seen = memory[card]
    assert seen["fits"] and seen["held by stock samplers"] > 0.3
    assert max(seen["held"], seen["held composite"]) <= SLACK * seen["held by stock samplers"]


@pytest.mark.parametrize("card", ["one and a half", "one", "half a model"])
def test_the_picture_does_not_depend_on_the_card(memory: dict[str, Any], card: str) -> None:
    assert memory[card]["same"] and memory[card]["same composite"] and memory[card]["varies"] > 1e-3
