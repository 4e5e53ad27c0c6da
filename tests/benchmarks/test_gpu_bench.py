"""`bench gpu`: its code on tiny networks, what it says without a GPU, and where its results stand."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from rapiddraw.benchmarks import gpu
from rapiddraw.benchmarks.gpu_networks import NAMES, subject
from rapiddraw.benchmarks.report import write_report
from rapiddraw.cli import main
from rapiddraw.core.errors import InputError


def options(**changes) -> argparse.Namespace:
    return argparse.Namespace(**{"only": None, "minutes": 7.5, "repeats": 1, "dry": True, "results": Path("unused"), **changes})


def test_every_part_runs_on_tiny_networks():
    result = gpu.run(options())
    json.dumps(result)
    rows = result["rows"]
    assert {row["part"] for row in rows} == set(gpu.PARTS) and not [row for row in rows if "left out" in row]
    for part in ("picard", "lowrank", "compile"):
        assert list(dict.fromkeys(row["what"] for row in rows if row["part"] == part)) == list(NAMES)
    settings = [row["setting"] for row in rows if row["part"] == "compile" and row["what"] == "dit"]
    assert settings == ["plain float32", "Compile", "Compile, bf16 where equal", "all in bf16"]
    assert len(result["reports"]) == 2 * len(NAMES) and all("of the time" in report for report in result["reports"].values())
    assert 0 < max(row["difference"] for row in rows if row.get("setting") == "all in bf16") < 0.1
    assert {check["claim"] for check in result["checks"]} == {one.claim for one in gpu.expectations(options()).values()}


def test_what_there_is_no_time_for_is_named():
    result = gpu.run(options(minutes=0.0))
    assert result["checks"] == [] and {row["left out"] for row in result["rows"]} == {"no time was left"}
    assert len(result["rows"]) == len(gpu.TINY_SHAPES) + 3 * len(NAMES) + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_call_of_several_states_is_several_calls(name):
    one = subject(name, "cpu", tiny=True)
    x, t = torch.randn(3, 4, one.side, one.side), torch.tensor([1, 500, 999])
    with torch.no_grad():
        whole = one.ask(one.network, x, t)
        parts = torch.cat([one.ask(one.network, x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    assert whole.std() > 0


def test_without_a_gpu_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "gpu"]) == 1
    said = capsys.readouterr().err.strip()
    assert "needs a GPU" in said and "\n" not in said
    with pytest.raises(InputError, match="--results"):
        gpu.run(options(results=None))
    with pytest.raises(InputError, match="no part is named 'speed'"):
        gpu.run(options(only="speed"))


def test_figures_of_a_gpu_stand_in_a_chapter_of_their_own(tmp_path, monkeypatch):
    from rapiddraw.benchmarks import common

    folder = tmp_path / "results"
    for device, value in (("cpu", 1.0), ("NVIDIA Some GPU", 2.0)):
        monkeypatch.setattr(common, "environment", lambda device=device: {"device": device, "threads": 1})
        path = common.save_result(common.result("attention", "the command", [{"gain": value}], []), folder)
        assert path == (folder if device == "cpu" else folder / "gpu") / "attention.json"
    text = write_report(folder).read_text(encoding="utf-8")
    cpu, gpus = text.split("# On a GPU")
    assert "## attention" in cpu and "| 1 |" in cpu and "| 2 |" not in cpu
    assert "## attention" in gpus and "| 2 |" in gpus and "NVIDIA Some GPU" in gpus
