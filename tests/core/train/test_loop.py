"""core.train: a resumed run equals an uninterrupted one bit for bit, and every way out leaves the files whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from rapiddraw.core import progress
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import Cancelled, InputError, TrainingError
from rapiddraw.core.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from rapiddraw.core.train.loop import Intervals
from rapiddraw.core.train.processes import sound_attention
from rapiddraw.core.train.recipe import EpochOrder, Recipe
from rapiddraw.tests.core.train.toy import Curve, StopAfter, run, same, weights
from torch.nn import Linear


@pytest.fixture(autouse=True)
def _clean():
    progress.clear_cancel()
    yield
    progress.clear_cancel()
    progress.set_reporter(None)


def test_a_run_trains_saves_and_says_where(tmp_path):
    result = run(tmp_path, "a", steps=60)
    assert result.files == [tmp_path / "a.safetensors"]
    assert result.losses[-1][1] < result.losses[0][1]
    assert result.plot.read_bytes()[:4] == b"\x89PNG"
    provenance = load_bundle(result.files[0], "judge").info.provenance
    assert provenance["recipe"] == "curve"
    assert provenance["steps"] == 60
    assert provenance["settings"]["lr"] == 1e-2
    assert provenance["metrics"]["loss"] == pytest.approx(result.losses[-1][1], rel=1e-5)
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(4, 61, 4))
    assert {"loss", "worst", "lr", "grad_norm", "seconds"} <= lines[0].keys()
    assert len(checkpoints(result.run_dir)) == 2


@pytest.mark.parametrize("stop_at", [1, 6, 7, 13])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, stop_at):
    whole = run(tmp_path, "whole")
    progress.set_reporter(StopAfter(stop_at))
    with pytest.raises(Cancelled):
        run(tmp_path, "parts")
    assert not (tmp_path / "parts.safetensors").exists()
    assert load_checkpoint(checkpoints(tmp_path / "parts")[-1])[0] == stop_at
    progress.set_reporter(None)
    progress.clear_cancel()
    torch.manual_seed(99)  # the caller's random state must not matter
    parts = run(tmp_path, "parts")
    assert same(weights(whole.files[0]), weights(parts.files[0]))
    assert whole.losses == parts.losses


def test_prefetching_and_evaluating_change_nothing(tmp_path):
    plain = run(tmp_path, "plain")
    other = run(tmp_path, "other", recipe=Curve(prefetch=3), every=Intervals(6, 4, evaluate=5))
    assert same(weights(plain.files[0]), weights(other.files[0]))
    assert any("eval_weight" in line for line in other.log.read_text().splitlines())


def test_the_callers_random_state_and_modes_are_left_alone(tmp_path):
    before = torch.get_rng_state()
    with torch.inference_mode():
        run(tmp_path, "a", steps=3)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(before, torch.get_rng_state())


def test_another_seed_gives_another_run(tmp_path):
    a, b = run(tmp_path, "a"), run(tmp_path, "b", recipe=Curve(seed=1))
    assert not same(weights(a.files[0]), weights(b.files[0]))


def test_a_hosts_own_interrupt_saves_first_and_passes_through(tmp_path):
    class HostError(Exception):
        pass

    progress.set_reporter(StopAfter(9, HostError()))
    with pytest.raises(HostError):
        run(tmp_path, "a")
    assert load_checkpoint(checkpoints(tmp_path / "a")[-1])[0] == 9


@pytest.mark.parametrize("error", [Cancelled("enough"), KeyboardInterrupt()])
def test_a_stop_inside_an_evaluation_keeps_the_steps_before_it(tmp_path, error):
    class Stopping(Curve):
        def evaluate(self, step, run_dir):
            raise error

    whole = run(tmp_path, "whole")
    with pytest.raises(type(error)):
        run(tmp_path, "parts", recipe=Stopping(), every=Intervals(save=6, log=4, evaluate=5))
    assert load_checkpoint(checkpoints(tmp_path / "parts")[-1])[0] == 5
    parts = run(tmp_path, "parts")
    assert same(weights(whole.files[0]), weights(parts.files[0])) and whole.losses == parts.losses


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_good_weights(tmp_path):
    with pytest.raises(TrainingError, match=r"loss is nan at step 8 .*lr.*checkpoint-00000006"):
        run(tmp_path, "a", recipe=Curve(explode_at=8))
    assert not (tmp_path / "a.safetensors").exists()
    _, state = load_checkpoint(checkpoints(tmp_path / "a")[-1])
    assert all(t.isfinite().all() for t in state["modules"]["net"].values())


def test_resuming_with_other_settings_is_refused_and_named(tmp_path):
    run(tmp_path, "a", steps=4)
    with pytest.raises(TrainingError, match=r"width was 8 and is 9"):
        run(tmp_path, "a", steps=8, recipe=Curve(width=9))
    with pytest.raises(TrainingError, match="past the 2 asked for"):
        run(tmp_path, "a", steps=2)
    assert run(tmp_path, "a", steps=8, recipe=Curve(width=9), resume=False).steps == 8


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path, "a", steps=6)
    path = checkpoints(tmp_path / "a")[-1]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(TrainingError, match="checkpoint-00000006.*delete it"):
        run(tmp_path, "a", steps=8)


@pytest.mark.parametrize(
    "field",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"ema": 1.0},
        {"precision": "fp8"},
        {"batch_size": 0},
        {"batch_size": 2**70},
        {"schedule": "zigzag"},
        {"weight_decay": -1.0},
        {"weight_decay": float("nan")},
        {"warmup": 1.5},
    ],
)
def test_bad_hyper_parameters_are_refused(tmp_path, field):
    with pytest.raises(InputError, match=next(iter(field))):
        run(tmp_path, "a", recipe=Curve(**field))
    with pytest.raises(InputError, match="steps"):
        run(tmp_path, "a", steps=0)


def test_accumulating_equals_one_large_batch_without_dropout_and_noise(tmp_path):
    @dataclass
    class Plain(Curve):
        name: ClassVar[str] = "plain"

        def setup(self, device):
            super().setup(device)
            self.net = Linear(2, 1)

        def batch(self, index, generator):
            items = torch.tensor(self.order.indices(index), dtype=torch.float32)
            return torch.stack([items, items.sqrt()], 1) / 50

        def loss(self, batch):
            return {"loss": (self.net(batch) - 1).pow(2).mean()}

        def finish(self, out, provenance):
            return [save_bundle(out, dict(self.net.state_dict()), BundleInfo("judge"))]

    one = run(tmp_path, "one", recipe=Plain(batch_size=10))
    two = run(tmp_path, "two", recipe=Plain(batch_size=5, accumulate=2))
    for key, tensor in weights(one.files[0]).items():
        assert torch.allclose(tensor, weights(two.files[0])[key], atol=1e-6)


def test_two_phases_train_two_networks_apart(tmp_path):
    @dataclass
    class Gan(Recipe):
        name: ClassVar[str] = "gan"
        warmup: int = 0

        def setup(self, device):
            self.g, self.d = Linear(2, 2), Linear(2, 1)

        def modules(self):
            return {"g": self.g, "d": self.d}

        def optimizers(self):
            return {"g": self.adamw(self.g.parameters()), "d": self.adamw(self.d.parameters(), lr=5e-4)}

        def phases(self):
            return [(["g"], self.g_loss), (["d"], self.d_loss)]

        def batch(self, index, generator):
            return {"z": torch.randn(self.batch_size, 2, generator=generator)}

        def g_loss(self, batch):
            assert not self.d.weight.requires_grad
            batch["fake"] = self.g(batch["z"])
            loss = -self.d(batch["fake"]).mean()
            return {"loss": loss, "loss_g": loss}

        def d_loss(self, batch):
            assert not self.g.weight.requires_grad
            loss = self.d(batch["fake"].detach()).mean() - self.d(batch["z"]).mean()
            return {"loss": loss, "loss_d": loss}

        def finish(self, out, provenance):
            return [save_bundle(out, {**self.g.state_dict(prefix="g."), **self.d.state_dict(prefix="d.")}, BundleInfo("judge"))]

    whole = run(tmp_path, "whole", recipe=Gan(), steps=9)
    progress.set_reporter(StopAfter(5))
    with pytest.raises(Cancelled):
        run(tmp_path, "parts", recipe=Gan(), steps=9)
    progress.clear_cancel()
    progress.set_reporter(None)
    parts = run(tmp_path, "parts", recipe=Gan(), steps=9)
    assert same(weights(whole.files[0]), weights(parts.files[0]))
    line = json.loads(whole.log.read_text().splitlines()[-1])
    assert {"loss_g", "loss_d", "grad_norm_g", "grad_norm_d"} <= line.keys()
    assert line["loss"] == pytest.approx(line["loss_g"] + line["loss_d"], abs=1e-6)


def test_bf16_runs_and_keeps_float32_weights(tmp_path):
    result = run(tmp_path, "a", recipe=Curve(precision="bf16"), steps=4)
    assert weights(result.files[0])["0.weight"].dtype == torch.float32
    assert not same(weights(result.files[0]), weights(run(tmp_path, "b", steps=4).files[0]))


def test_the_schedule_rises_then_falls():
    cosine, constant = Curve(warmup=10, lr_final=0.1), Curve(warmup=10, schedule="constant")
    assert cosine.lr_factor(0, 100) == pytest.approx(0.1)
    assert cosine.lr_factor(9, 100) == cosine.lr_factor(10, 100) == 1.0
    assert cosine.lr_factor(55, 100) == pytest.approx(0.55)
    assert cosine.lr_factor(100, 100) == pytest.approx(0.1)
    assert constant.lr_factor(99, 100) == 1.0


def test_epochs_show_every_item_equally_often():
    order = EpochOrder(7, 3, seed=5)
    seen = [i for index in range(14) for i in order.indices(index)]
    assert sorted(seen) == sorted(list(range(7)) * 6)
    assert [sorted(seen[k * 7 : k * 7 + 7]) for k in range(6)] == [list(range(7))] * 6
    assert order.indices(2) == EpochOrder(7, 3, seed=5).indices(2)
    assert seen[:7] != seen[7:14]


def test_a_checkpoint_holds_any_nesting_without_pickle(tmp_path):
    tied = torch.arange(3.0)
    state = {
        "a": [1, 2.5, None, True, "x"],
        "b": {0: tied, "t": (tied, tied[:2])},
        "empty": {},
        "scalar": torch.tensor(4, dtype=torch.int64),
    }
    path = save_checkpoint(tmp_path, 12, state)
    step, back = load_checkpoint(path)
    assert step == 12
    assert back["a"] == state["a"]
    assert torch.equal(back["b"][0], tied)
    assert isinstance(back["b"]["t"], tuple)
    assert torch.equal(back["scalar"], state["scalar"])
    with pytest.raises(TrainingError, match="cannot hold"):
        save_checkpoint(tmp_path, 13, {"f": object()})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


LAUNCHED = """
import sys
from pathlib import Path
from rapiddraw.core.train.loop import Intervals, train
from rapiddraw.tests.core.train.toy import Curve
recipe = Curve(batch_size=4, ema=0.0)
train(recipe, Path(sys.argv[1]) / "out.safetensors", 4, run_dir=Path(sys.argv[1]) / "run", device="cpu", every=Intervals(log=1))
"""


def test_two_processes_share_one_run(tmp_path):
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)  # noqa: S603 - our own command
    assert done.returncode == 0, done.stderr[-3000:]
    assert load_bundle(tmp_path / "out.safetensors").info.provenance["processes"] == 2
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 4


def test_a_training_on_an_nvidia_gpu_does_without_cudnn_attention():
    with sound_attention(torch.device("cuda")):
        assert (
            not torch.backends.cuda.cudnn_sdp_enabled()
            and torch.backends.cuda.flash_sdp_enabled()
            and torch.backends.cuda.math_sdp_enabled()
        )
    with sound_attention(torch.device("cpu")):
        assert torch.backends.cuda.cudnn_sdp_enabled()
