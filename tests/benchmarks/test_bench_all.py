"""`bench all`: every benchmark in turn, one that fails among them, and the report with its plots at the end."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from rapiddraw.benchmarks import common, report
from rapiddraw.benchmarks.checks import CHOSEN, EARLIER, PAPER, Expectation, equal, exact
from rapiddraw.cli import bench, main
from rapiddraw.core.errors import Cancelled


def module(name, run, **more):
    made = ModuleType(name)
    made.run, made.__doc__ = run, f"{name}: a claim.\n\nMore of it."
    made.expectations = lambda args: WANTED
    vars(made).update(more)
    return made


WANTED = {"it": Expectation("it is", equal(1), CHOSEN, exact(1, "runs"))}


def claims(name, holds=True):
    checks = [WANTED["it"].judge(float(holds))]
    return lambda args: common.result(name, f"bench {name}", [{"count": getattr(args, "count", 0)}], checks)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three benchmarks, the middle one broken, whose results lie in a folder of the test's own."""

    def broken(args):
        raise RuntimeError("no such model")

    def add_arguments(parser):
        parser.add_argument("--count", type=int, default=3)

    def plot(outcome, path):
        path.write_bytes(b"a plot")

    made = {
        "first": module("first", claims("first"), add_arguments=add_arguments, plot=plot),
        "middle": module("middle", broken),
        "third-one": module("third-one", claims("third-one", False)),
    }
    folder = tmp_path / "results"
    monkeypatch.setattr(bench, "benchmarks", lambda: made)
    monkeypatch.setattr(common, "results_dir", lambda: folder)
    monkeypatch.setattr(report, "results_dir", lambda: folder)
    monkeypatch.setattr(report, "names", lambda: list(made))
    for name, one in made.items():
        monkeypatch.setitem(sys.modules, f"{report.__package__}.{name}", one)
    return folder


def test_all_of_them_run_with_their_defaults_and_the_report_follows(folder, capsys):
    common.save_result(common.result("middle", "bench middle", [{"a": 1}], [], notes="as it was before"))
    assert main(["bench", "all"]) == 1, "one could not run"
    shown = capsys.readouterr()
    assert "bench middle could not run: no such model" in shown.err
    assert shown.out.split()[-1] == str(folder.parent / "BENCHMARKS.md")
    text = (folder.parent / "BENCHMARKS.md").read_text()
    assert "1 of 2 checks hold" in text and "2 of them have an origin" in text and "| count |\n|---|\n| 3 |" in text
    assert "## third-one" in text and "as it was before" in text, "the last result of the one that failed is still there"
    assert "![first](results/first.png)" in text and (folder / "first.png").read_bytes() == b"a plot"


def test_some_are_left_out_and_a_cancel_ends_it(folder, monkeypatch, capsys):
    assert main(["bench", "all", "--skip", "middle"]) == 0
    assert "middle" not in capsys.readouterr().err

    def cancelled(args):
        raise Cancelled("stopped")

    monkeypatch.setattr(bench.benchmarks()["first"], "run", cancelled)
    (folder / "third-one.json").unlink()
    assert main(["bench", "all", "--skip", "middle"]) == 130
    assert not (folder / "third-one.json").exists()


def test_a_dry_run_lists_each_check_with_its_origin_count_and_interval(capsys):
    assert main(["bench", "all", "--dry-run", "--skip", "retrieval"]) == 0
    lines = capsys.readouterr().out.splitlines()
    about = [line for line in lines if line.startswith("    origin: ")]
    assert len(about) == len([line for line in lines if line.startswith("  ")]) / 2
    assert lines[-1] == f"{len(about)} checks; nothing was measured"
    assert all(line.split("origin: ")[1].startswith((PAPER, EARLIER, CHOSEN)) for line in about)
    assert all("; count: " in line and "; interval: " in line for line in about)
    assert "adaptive" in lines and "retrieval" not in lines
    assert any("bootstrap over pictures" in line for line in about) and any("the value is exact" in line for line in about)
    assert not any("it needs at least" in line for line in about), "every default is large enough for its interval"
