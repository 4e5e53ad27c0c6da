"""A recipe small enough to be trained dozens of times, with everything in it that resuming could get wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from rapiddraw.core import progress
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.train.loop import Intervals, train
from rapiddraw.core.train.recipe import EpochOrder, Recipe
from torch import nn
from torch.nn import Linear


@dataclass
class Curve(Recipe):
    """A small net with dropout and noise in its loss: everything that resuming could get wrong."""

    name: ClassVar[str] = "curve"
    lr: float = 1e-2
    warmup: int = 3
    ema: float = 0.9
    width: int = 8
    explode_at: int = -1

    def setup(self, device):
        self.calls = 0
        self.net = nn.Sequential(Linear(2, self.width), nn.Dropout(0.2), nn.BatchNorm1d(self.width), Linear(self.width, 1)).to(device)
        self.order = EpochOrder(50, self.batch_size, self.seed)

    def modules(self):
        return {"net": self.net}

    def batch(self, index, generator):
        items = torch.tensor(self.order.indices(index), dtype=torch.float32)
        return {"x": torch.stack([items / 50, torch.rand(len(items), generator=generator)], 1), "y": items[:, None] / 25}

    def loss(self, batch):
        self.calls += 1
        error = self.net(batch["x"] + 0.01 * torch.randn_like(batch["x"])) - batch["y"]
        loss = error.pow(2).mean()
        if self.explode_at >= 0 and self.calls > self.explode_at:
            loss = loss * float("nan")
        return {"loss": loss, "worst": error.abs().max()}

    def evaluate(self, step, run_dir):
        assert not self.net.training
        return {"weight": float(self.net[0].weight.sum()) + float(torch.rand(()))}

    def finish(self, out, provenance):
        assert not self.net.training
        return [save_bundle(out, dict(self.net.state_dict()), BundleInfo("judge", provenance=provenance))]


class StopAfter:
    """A reporter that asks for a stop after `count` steps, or raises what a host would raise."""

    def __init__(self, count, error=None):
        self.left, self.error = count, error

    def __call__(self, total, label, unit):
        return self

    def advance(self, count, info, preview=None):
        self.left -= count
        if self.left <= 0:
            if self.error is not None:
                raise self.error
            progress.request_cancel()

    def close(self):
        pass


def weights(path):
    return load_bundle(path).tensors


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def run(tmp_path, name, steps=20, recipe=None, **options):
    options = {"every": Intervals(save=6, log=4)} | options
    return train(recipe or Curve(), tmp_path / f"{name}.safetensors", steps, run_dir=tmp_path / name, device="cpu", **options)


def train_beside(recipe, out, steps, **more):
    """Train `recipe` on the CPU with its run folder beside `out`, and a line of the log for every step."""
    return train(recipe, out, steps, run_dir=out.parent / f"run-{out.stem}", every=Intervals(log=1), device="cpu", **more)
