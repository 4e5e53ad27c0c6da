"""A run needs nothing but torch for one process, and says in one line what it lacks for several, or on this machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from rapiddraw.core.errors import InputError, MissingPackageError
from rapiddraw.core.train.loop import train
from rapiddraw.core.train.processes import check_precision, join_processes, to_device
from rapiddraw.tests.core.train.toy import Curve, same, weights

WITHOUT_ACCELERATE = """
import sys
sys.modules["accelerate"] = None  # importing it raises ImportError, as where it is not installed
from pathlib import Path
from rapiddraw.core import progress
from rapiddraw.core.errors import Cancelled
from rapiddraw.core.train.loop import train
from rapiddraw.tests.core.train.toy import Curve, StopAfter

def run(steps, name="out", **changes):
    folder = Path(sys.argv[1])
    return train(Curve(precision="bf16", **changes), folder / f"{name}.safetensors", steps, run_dir=folder / name, device="cpu")

run(9, "whole")
progress.set_reporter(StopAfter(4))
try:
    run(9)
except Cancelled:
    progress.set_reporter(None)
    progress.clear_cancel()
    run(9)
"""


def test_without_accelerate_a_run_is_the_same_resumed_and_in_mixed_precision(tmp_path):
    script = tmp_path / "alone.py"
    script.write_text(WITHOUT_ACCELERATE)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=240)  # noqa: S603
    assert done.returncode == 0, done.stderr[-3000:]
    here = train(Curve(precision="bf16"), tmp_path / "here.safetensors", 9, run_dir=tmp_path / "here", device="cpu")
    assert same(weights(here.files[0]), weights(tmp_path / "whole.safetensors"))
    assert same(weights(here.files[0]), weights(tmp_path / "out.safetensors"))


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_several_processes_without_accelerate_are_one_line(monkeypatch, variable):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv(variable, "2")
    with pytest.raises(MissingPackageError, match=r"2 processes .*`pip install accelerate`") as caught:
        join_processes("cpu")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(variable, "1")
    assert join_processes("cpu").count == 1


def test_one_process_has_nothing_to_tell_the_others():
    alone, stop = join_processes("cpu"), KeyboardInterrupt()
    assert (alone.count, alone.index, alone.main, alone.device) == (1, 0, True, torch.device("cpu"))
    assert alone.agree_to_stop(stop) is stop and alone.agree_to_stop(None) is None


def test_the_cpu_can_be_asked_for_as_accelerate_does(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert join_processes().device.type == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "meta:x"])
def test_a_device_that_is_not_there_is_one_line(device):
    with pytest.raises(InputError, match=r"device=.*cannot be used") as caught:
        join_processes(device)
    assert "\n" not in str(caught.value)


def test_half_precision_is_refused_where_the_device_has_none(monkeypatch):
    check_precision("no", torch.device("cpu"))
    check_precision("bf16", torch.device("cpu"))
    monkeypatch.setattr("torch.amp.is_autocast_available", lambda device: False)
    check_precision("no", torch.device("cpu"))
    with pytest.raises(InputError, match=r"precision='bf16': cpu has no bfloat16.*precision=no"):
        check_precision("bf16", torch.device("cpu"))


def test_a_batch_of_any_nesting_moves():
    nested = {"a": [torch.ones(2), (torch.zeros(1), "text")], "b": None, "c": 3}
    moved = to_device(nested, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == "meta"
    assert moved["a"][1][1] == "text" and moved["b"] is None and moved["c"] == 3
    assert nested["a"][0].device.type == "cpu"  # the batch that came in is as before
