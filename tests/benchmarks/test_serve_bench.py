"""`bench serve` with few jobs: its parts count what they say. What depends on time is measured by hand, on a quiet machine."""

from __future__ import annotations

import argparse

import pytest
from rapiddraw.benchmarks import common, serve
from rapiddraw.benchmarks.serve_process import ServeProcess
from rapiddraw.core.errors import InputError, RapidDrawError

pytest.importorskip("fastapi", reason='the extra "serve" is not installed')


def settings(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(["--jobs", "12", "--kill-every", "6", "--clients", "8", "--memory-jobs", "10", "--patience", "300", *given])


def test_kills_lose_nothing_and_clients_all_get_their_picture(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "results_dir", lambda: tmp_path)
    outcome = serve.run(settings("--parts", "kills,clients"))
    kills, clients = outcome["rows"]
    assert kills["jobs"] == kills["pictures"] == 12 and kills["kills"] >= 1 and clients == {"part": "clients", "clients": 8, "got": 8}
    assert [check["holds"] for check in outcome["checks"]] == [True, True, True]


def test_every_expectation_belongs_to_a_part():
    wanted = serve.expectations(settings())
    assert set(serve.PARTS) == set(serve._MEASURE) == set(serve._CHECKS)
    assert sorted(key for keys in serve._CHECKS.values() for key in keys) == sorted(wanted)


def test_parts_that_are_not_measured_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "results_dir", lambda: tmp_path)
    given = settings("--parts", "memory")
    outcome = serve.run(given)
    common.save_result(outcome, tmp_path)
    monkeypatch.setitem(serve._MEASURE, "kills", lambda *_: ([{"jobs": 12}], [serve.expectations(given)["lost"].judge(0)]))
    both = serve.run(settings("--parts", "kills"))
    assert [row["part"] for row in both["rows"]] == ["kills", "memory"] and both["rows"][1] == outcome["rows"][0]
    assert both["checks"][1:] == outcome["checks"] and both["command"] == "python -m rapiddraw bench serve --parts kills,memory"


def test_parts_that_need_ray_say_so(monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"rapiddraw\[ray\]"):
        serve.run(settings("--parts", "burst"))
    with pytest.raises(InputError, match="no part is named"):
        serve.run(settings("--parts", "speed"))


def test_a_service_that_does_not_start_shows_its_log(tmp_path):
    with pytest.raises(RapidDrawError, match="is no file, no folder and no shipped graph"):
        ServeProcess(str(tmp_path / "none.json"), tmp_path / "data").start()


def test_pictures_of_two_replicas_are_counted_in_blocks():
    assert serve._blocks([1.0, 3.0] * 15) == [2.0, 2.0, 2.0]
    assert serve._blocks([1.0, 2.0, 3.0]) == [2.0]
