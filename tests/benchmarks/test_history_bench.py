"""What a sampler's memory across the switch costs: the figures that the tooltip of `history` quotes."""

from __future__ import annotations

from functools import cache

import pytest
from rapiddraw.benchmarks.history import TwoModels


@pytest.mark.parametrize(
    ("name", "steps", "kept", "reset"),
    [("plms", 8, 0.31, 0.22), ("plms", 20, 0.09, 0.05), ("plms", 40, 0.025, 0.023), ("dpmpp_2m", 8, 0.19, 0.17)],
)
def test_what_history_costs(name, steps, kept, reset):
    """The figures of the tooltip, which `python -m rapiddraw bench history` gives."""
    assert [float(one.mean() ** 0.5) for one in models().squares(name, steps)] == pytest.approx([kept, reset], abs=0.007)


@cache
def models():
    return TwoModels()
