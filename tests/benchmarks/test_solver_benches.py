"""`bench solvers`, `picard` and `adaptive` with a tiny random network: counts, distances, and the shape of their results."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
import torch
from rapiddraw.benchmarks import adaptive, picard, solvers
from rapiddraw.core import paths
from rapiddraw.core.diffusion.samplers import SAMPLERS
from rapiddraw.core.errors import InputError
from rapiddraw.core.metrics.sampling_runs import open_orchard, rms, square_by_picture
from rapiddraw.tests import helpers

CHECK = {"claim", "value", "expected", "holds", "origin", "count", "resampled", "interval"}


@pytest.fixture(scope="module")
def orchard(tmp_path_factory):
    """Tiny random bundles under the names of the shipped ones, and the shipped judge."""
    folder = tmp_path_factory.mktemp("benches")
    for name, write in {"unet": helpers.write_unet, "text": helpers.write_text, "vae": helpers.write_vae, "kg": helpers.write_kg}.items():
        write(folder / f"orchard-{name}.safetensors")
    shutil.copy(paths.pack_root() / "weights" / "orchard-judge.safetensors", folder)
    return folder


@pytest.fixture(autouse=True)
def tiny(orchard, monkeypatch):
    monkeypatch.setattr(paths, "weights_dirs", lambda: [orchard])


def check_shape(outcome, name, tmp_path):
    assert outcome["name"] == name and outcome["rows"] and outcome["command"].endswith(f"bench {name}")
    assert all(set(check) == CHECK for check in outcome["checks"])
    json.dumps(outcome)
    pytest.importorskip("matplotlib")
    {"solvers": solvers, "picard": picard, "adaptive": adaptive}[name].plot(outcome, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_sampling_runs_count_and_repeat():
    runs = open_orchard(2).runs
    sigmas = runs.sigmas("simple", 3)
    one, again = (runs.draw(SAMPLERS["heun"], sigmas) for _ in range(2))
    assert torch.equal(one.latents, again.latents) and one.latents.shape == (2, 4, 16, 16)
    assert one.evaluations == one.calls == 5 and rms(one.latents, again.latents) == 0
    alone = runs.only(1).draw(SAMPLERS["heun"], sigmas)
    assert alone.latents.shape == (1, 4, 16, 16) and alone.evaluations == 5
    assert torch.equal(runs.only(0).draw(SAMPLERS["heun"], sigmas).latents, runs.only(0).draw(SAMPLERS["heun"], sigmas).latents)
    assert sum(square_by_picture(one.latents, one.latents + 2)) == pytest.approx(8)
    for count in (0, -1, 10**6, True):
        with pytest.raises(InputError, match="between 1 and 4096"):
            open_orchard(count)


def test_solvers(tmp_path, monkeypatch):
    assert set(solvers.SAMPLERS) <= set(SAMPLERS)
    monkeypatch.setattr(solvers, "SAMPLERS", {name: solvers.SAMPLERS[name] for name in ("ddim", "f_pndm", "euler_ancestral")})
    outcome = solvers.run(argparse.Namespace(count=1, exact_steps=2, budgets=[2, 13]))
    check_shape(outcome, "solvers", tmp_path)
    for row in outcome["rows"][1:]:
        assert row["budget"] - 1 <= row["evaluations"] <= row["budget"]
        assert ("distance" in row) == (row["sampler"] not in solvers.STOCHASTIC)
    assert {row["sampler"] for row in outcome["rows"] if row.get("budget") == 2} == {"ddim", "euler_ancestral"}, "f_pndm does not fit"


def test_picard(tmp_path):
    outcome = picard.run(argparse.Namespace(count=1, steps=[3], windows=[2], tolerances=[0.1, 0.001]))
    check_shape(outcome, "picard", tmp_path)
    assert len(outcome["rows"]) == 3 and all(1 <= row["iterations"] <= 3 <= row["evaluations"] for row in outcome["rows"])


def test_adaptive(tmp_path):
    outcome = adaptive.run(argparse.Namespace(count=1, steps=3, rtols=[0.8, 1.0]))
    check_shape(outcome, "adaptive", tmp_path)
    assert [row["solver"] for row in outcome["rows"]][:3] == ["Euler-Maruyama, 3 steps", "ode: Heun", "adaptive, rtol 0.8"]
    assert outcome["rows"][0]["evaluations"] == 3


def test_long_steps_make_the_fourth_order_unstable_and_short_ones_do_not():
    assert solvers.growth(4, 0.9, 1.0) == pytest.approx(1.0, abs=1e-6) and solvers.growth(4, 0.6, 1.0) > 1.3
    assert solvers.growth(2, 0.6, 1.0) == pytest.approx(1.0, abs=1e-6) and solvers.growth(4, 0.8, 1.5) > solvers.growth(2, 0.8, 1.5)
    assert "19 steps" in solvers.why_plms(open_orchard(1).runs)


def test_without_guidance_the_exact_solution_is_another():
    runs = open_orchard(1).runs
    squares, rows = solvers.unguided(runs, 2, [20, 50])
    assert [row["sampler"] for row in rows] == ["ddim without guidance", "plms without guidance"] and len(squares) == 2
    assert all(row["evaluations"] == row["budget"] and row["distance"] == row["median distance"] for row in rows)
    assert runs.using(cfg=1.0).cfg == 1.0 and runs.cfg == 4.0 and solvers.unguided(runs, 2, [5]) == ({}, [])
