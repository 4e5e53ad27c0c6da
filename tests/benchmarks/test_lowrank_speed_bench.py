"""`bench lowrank-speed` on a tiny network: the shape of its result; and that the other network is of SD 1.5's size."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from rapiddraw.benchmarks import lowrank_speed
from rapiddraw.cli import main


def test_every_variant_is_measured_against_the_dense_network(orchard: Path) -> None:
    result = lowrank_speed.run(argparse.Namespace(only="orchard", sizes=[64], repeats=1))
    json.dumps(result)
    rows = result["rows"]
    assert [(row["ratio"], row["rule"]) for row in rows] == list(lowrank_speed.VARIANTS)
    for row in rows:
        assert row["left"] <= row["ratio"] + 1e-3 or row["rule"] != "off"
        assert row["times as fast"] > 0 and row["GMAC"] <= row["dense GMAC"] and row["weights MB"] <= row["dense weights MB"]
        assert row["peak MB"] is None or row["peak MB"] >= row["weights MB"]
    count = result["layers"]["orchard 64 px, 0.61, count"]
    assert all(one["why"] for one in count) and {"layer", "weight", "rank", "why"} == set(count[0])
    assert [check["claim"][:10] for check in result["checks"]] == ["times as f", "times as f", "memory of "]


def test_a_hyphen_in_a_benchmarks_name_is_as_good(orchard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "lowrank-speed", "--only", "orchard", "--sizes", "64", "--repeats", "1", "--results", str(orchard / "results")]
    assert main(command) == 0
    assert (orchard / "results" / "lowrank_speed.json").is_file() and "lowrank_speed.json" in capsys.readouterr().out


def test_the_large_network_is_of_sd_15s_size() -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel(**lowrank_speed.SD15)
    assert sum(parameter.numel() for parameter in network.parameters()) == 859_520_964
