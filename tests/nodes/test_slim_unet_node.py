"""Slim UNet on a tiny model: evolved to a budget, trained, saved, stopped and gone on with."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.format import read_info
from rapiddraw.core.errors import InputError
from rapiddraw.core.host import current
from rapiddraw.core.operations import slim_model as operation
from rapiddraw.core.slim.changes import changes_of
from rapiddraw.nodes.slim_train import _SWITCHES, SlimUNet

GIVEN = {
    "folder": "", "filename": "slim", "preset": "none", "latency": 0.75, "measure": "multiply-adds", "copies": 1, "robust_steps": 2,
    "skip": 0.3, "steps": 3, "batch_size": 2, "lr": 1e-4, "size": 64, "feature_weight": 0.0, "seed": 0, "save_every": 1, "resume": True,
}  # fmt: skip


@pytest.fixture
def parts(tiny_weights: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    for name, folder in (("input", "in"), ("output", "out"), ("temp", "temp")):
        monkeypatch.setitem(paths._dirs, name, tmp_path / folder)
    monkeypatch.setattr("rapiddraw.core.slim.rating.cache_dir", lambda: tmp_path)
    return current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))


def denoised(model: Any) -> torch.Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.model.apply_model(x, torch.tensor([2.0]), torch.ones(1, 3, model.model.context_width))


def slimmed(parts: Any, **given: Any) -> tuple[Any, str, torch.Tensor]:
    return SlimUNet().execute(*parts, **{**GIVEN, **given})


def test_it_meets_its_budget_and_can_be_loaded(parts: Any) -> None:
    before = denoised(parts[0])
    student, report, plot = slimmed(parts)
    assert torch.equal(denoised(parts[0]), before) and plot.shape[-1] == 3
    made = changes_of(student.model.diffusion_model)
    assert made.removed and "of the model's multiply-adds" in report and "3 steps on 48 pictures" in report
    share = float(report.splitlines()[1].split()[0])
    assert 0.3 < share <= 0.75 and report.count("removed ") >= len(made.removed)
    path = paths.made_weights_dir() / "slim.safetensors"
    assert read_info(path).extra["slim"]["removed"] == list(made.removed)
    assert torch.allclose(denoised(current().model.load(path)), denoised(student), atol=5e-3)


def test_a_stopped_run_ends_as_an_uninterrupted_one(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = slimmed(parts, filename="whole")[0]
    calls, real = [], operation.SlimDistillation.loss

    def stops(self: Any, batch: Any) -> Any:
        calls.append(self.skip)
        if len(calls) == 4:  # in the second step of the last training
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(operation.SlimDistillation, "loss", stops)
    with pytest.raises(KeyboardInterrupt):
        slimmed(parts, filename="stopped")
    monkeypatch.setattr(operation, "evolve", None)  # what was decided is kept
    again = slimmed(parts, filename="stopped")[0]
    assert calls == [0.3, 0.3, 0.0, 0.0, 0.0, 0.0]
    assert changes_of(again.model.diffusion_model) == changes_of(whole.model.diffusion_model)
    assert torch.equal(denoised(again), denoised(whole))


def test_a_damaged_architecture_is_decided_again(parts: Any) -> None:
    slimmed(parts, steps=1)
    path = paths.made_weights_dir() / "slim-run" / "architecture.json"
    kept = json.loads(path.read_text())
    for damage in ("[]", "{", json.dumps({**kept, "slim": {"removed": 3}}), json.dumps({**kept, "fingerprint": "another"})):
        path.write_text(damage)
        assert operation._read(path, kept["fingerprint"]) is None
    assert operation._read(path.with_name("none.json"), "") is None


def test_switches_and_presets(parts: Any) -> None:
    student = slimmed(parts, latency=1.0, steps=1, swish=True, shared_key_value=True)[0]
    made = changes_of(student.model.diffusion_model)
    assert made.swish and made.shared and not made.removed and not made.relu
    student = slimmed(parts, latency=1.0, steps=1, preset="mobile", filename="mobile")[0]
    assert changes_of(student.model.diffusion_model).relu and changes_of(student.model.diffusion_model).copies


def test_switches_are_the_methods_own() -> None:
    from rapiddraw.core.slim.switches import SWITCHES

    assert [name for name, _ in _SWITCHES.values()] == list(SWITCHES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latency": 0.1}, r"latency=0\.10 cannot be met: .* still takes 0\.\d\d"),
        ({"latency": 1.2}, "latency"),
        ({"preset": "snapfusion"}, "starts from SD 1.5's blocks"),
        ({"preset": "snapfusion", "swish": True}, "whole architecture"),
        ({"preset": "tiny"}, "preset='tiny'"),
        ({"measure": "luck"}, "measure='luck'"),
        ({"copies": -1}, "copies"),
        ({"skip": 0.95}, "skip"),
        ({"steps": 0}, "steps"),
        ({"filename": "../away"}, "away"),
    ],
)
def test_bad_settings_are_refused_before_any_work(parts: Any, wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        slimmed(parts, **wrong)
    assert not (paths.made_weights_dir() / "slim-run" / "robust").exists()
