"""`bench serve` with few jobs: its parts count what they say. What depends on time is measured by hand, on a quiet machine."""

from __future__ import annotations

import argparse

import pytest
from rapiddraw.benchmarks import serve
from rapiddraw.benchmarks.serve_process import ServeProcess
from rapiddraw.core.errors import InputError, RapidDrawError

pytest.importorskip("fastapi", reason='the extra "serve" is not installed')


def settings(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(["--jobs", "12", "--kill-every", "6", "--clients", "8", "--memory-jobs", "10", "--patience", "300", *given])


def test_kills_lose_nothing_and_clients_all_get_their_picture():
    outcome = serve.run(settings("--parts", "kills,clients"))
    kills, clients = outcome["rows"]
    assert kills["jobs"] == kills["pictures"] == 12 and kills["kills"] >= 1 and clients == {"part": "clients", "clients": 8, "got": 8}
    assert [check["holds"] for check in outcome["checks"]] == [True, True, True]


def test_every_expectation_belongs_to_a_part():
    assert len(serve.expectations(settings())) == 11 and set(serve.PARTS) == set(serve._MEASURE)


def test_parts_that_need_ray_say_so(monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"rapiddraw\[ray\]"):
        serve.run(settings("--parts", "burst"))
    with pytest.raises(InputError, match="no part is named"):
        serve.run(settings("--parts", "speed"))


def test_a_service_that_does_not_start_shows_its_log(tmp_path):
    with pytest.raises(RapidDrawError, match="is no file, no folder and no shipped graph"):
        ServeProcess(str(tmp_path / "none.json"), tmp_path / "data").start()
