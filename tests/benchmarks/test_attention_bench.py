"""`bench attention`: rows and checks of a small measurement, without ComfyUI. No duration is asserted."""

from __future__ import annotations

import pytest
from rapiddraw.benchmarks import attention
from rapiddraw.benchmarks.common import names
from rapiddraw.cli.bench import benchmarks
from rapiddraw.core.errors import InputError


def arguments(**changes):
    import argparse

    return argparse.Namespace(**{"comfyui": None, "graph": False, "repeats": 1, "shapes": None, "dtype": "float32"} | changes)


@pytest.fixture(autouse=True)
def _no_comfyui(monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setitem(attention.SHAPES, "tiny", (1, 2, 16, 9, 20, False))
    monkeypatch.setitem(attention.SHAPES, "tiny masked", (1, 2, 16, 9, 20, True))


def test_every_kernel_is_measured_and_right():
    outcome = attention.run(arguments(shapes=["tiny", "tiny masked"]))
    assert outcome["name"] == "attention" and "no ComfyUI" in outcome["settings"]["default"]
    for row in outcome["rows"]:
        assert {"default ms", "sdpa_flash ms", "sdpa_math ms", "tiled ms", "auto ms"} <= row.keys()
        assert row["auto / best"] > 0 and row["best / itself"] > 0
        assert row["largest error"] < 1e-5 and row["auto took"] in ("default", "sdpa_flash", "sdpa_math", "tiled")
    assert "the best kernel against itself" in outcome["notes"]
    assert outcome["checks"][0]["holds"] and not any("4096" in check["claim"] for check in outcome["checks"])


def test_a_graph_is_judged_by_its_gain_and_difference():
    times = {
        "default": {"median": 2.5, "low": 2, "high": 3, "runs": [2.0, 3.0] * 3},
        "patched": {"median": 1, "low": 1, "high": 1, "runs": [1.0, 1.0] * 3},
    }
    more = {
        "default": "attention_sub_quad",
        "dtype": "float32",
        "parameters": 1,
        "threads": 2,
        "comfyui": "1",
        "report": "",
        "attention_share": 0.6,
    }
    outcome = attention.graph_result({"times": times, "difference": 1e-6, **more}, attention.expectations(arguments(graph=True, repeats=6)))
    assert outcome["name"] == "attention_graph" and [check["holds"] for check in outcome["checks"]] == [True, True]
    assert (
        outcome["checks"][0]["value"] == 2.5
        and outcome["checks"][0]["interval"] == [2, 3]
        and "60.0%" in outcome["notes"]
        and "2.50 times" in outcome["notes"]
    )


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs a ComfyUI"):
        attention.run(arguments(graph=True))
    with pytest.raises(InputError, match="no such shape: huge"):
        attention.run(arguments(shapes=["huge"]))
    with pytest.raises(InputError, match=r"main\.py"):
        attention.run(arguments(comfyui=str(tmp_path)))


def test_the_part_inside_comfyui_is_no_benchmark_of_its_own():
    assert "attention" in names() and "attention_comfy" not in benchmarks()
