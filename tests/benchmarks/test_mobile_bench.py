"""`bench mobile`: sizes beside the papers' tables."""

from __future__ import annotations

import argparse

import pytest
from rapiddraw.benchmarks import mobile, mobile_sizes
from rapiddraw.core.errors import InputError


def arguments(**given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    mobile.add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), **given})


def test_sizes_are_counted_without_memory() -> None:
    rows, checks = mobile_sizes.measure()
    by_name = {row["model"]: row for row in rows}
    assert by_name["SD 1.5"]["parameters M"] == 859.5 and by_name["MobileDiffusion"]["parameters M"] == 403.7
    assert len(rows) == 4 + 8 and by_name["relu for softmax"]["GMAC"] == by_name["SD 1.5"]["GMAC"]
    failed = [check["claim"] for check in checks if not check["holds"]]
    assert len(checks) == len(mobile_sizes.expectations())
    assert failed == [f"{what} of SnapFusion, by the paper's" for what in ("parameters", "GFLOPs")]


def test_expectations_and_parts() -> None:
    assert len(mobile.expectations(arguments())) == 13
    with pytest.raises(InputError, match="name some of sizes"):
        mobile.expectations(arguments(parts="sizes,colours"))
