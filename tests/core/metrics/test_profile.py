from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import Cancelled, InputError
from rapiddraw.core.metrics import profile as profiling
from rapiddraw.core.metrics.profile import Profile, Row, Settings, draw_chart, profile_pipeline
from rapiddraw.core.progress import request_cancel
from torch import nn
from torch.nn import Linear


class FakeNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.ModuleDict({"attn1": Linear(4, 4), "attn2": Linear(4, 4)})

    def forward(self, x):
        return self.block["attn2"](self.block["attn1"](x))


class FakeModel:
    def __init__(self):
        self.model = self
        self.diffusion_model = FakeNetwork()


class FakeHost:
    """A host that notes its calls; it stands for its topics as well."""

    calls: list[str]

    def __init__(self):
        self.calls = []
        self.clip = self.sampling = self.vae = self.upscale = self

    def encode(self, clip, text):
        self.calls.append("text")

    def make_guider(self, model, positive, negative, cfg):
        return model

    def sample(self, guider, latent, run):
        self.calls.append("sample")
        for _ in range(run.steps):
            guider.diffusion_model(torch.zeros(1, 4))
        return {"samples": latent["samples"]}

    def decode(self, vae, latent):
        self.calls.append("decode")
        return torch.zeros(1, latent.shape[2] * 8, latent.shape[3] * 8, 3)

    def device_for(self, upscaler, tile):
        return torch.device("cpu")


@pytest.fixture
def host(monkeypatch):
    made = FakeHost()
    monkeypatch.setattr("rapiddraw.core.host.current", lambda: made)
    return made


def test_every_part_is_measured_and_shares_add_up(host):
    model = FakeModel()
    profile = profile_pipeline(model, None, None, settings=Settings(64, 32, steps=3, runs=4, warmup=2))
    assert [row.component for row in profile.rows] == [
        "text encoder", "U-Net loop", "self-attention", "cross-attention", "VAE decoder", "total",
    ]  # fmt: skip
    assert host.calls.count("sample") == 7 and host.calls.count("text") == 12, "warm-up runs, measured ones and a counted one"
    rows = {row.component: row for row in profile.rows}
    assert rows["total"].share == 1.0 and all(row.median_ms > 0 and row.iqr_ms >= 0 for row in profile.rows)
    assert rows["cross-attention"].median_ms < rows["U-Net loop"].median_ms and rows["cross-attention"].inside
    assert rows["U-Net loop"].parameters == 40 and rows["cross-attention"].parameters == 20 and rows["total"].parameters is None
    assert rows["cross-attention"].multiply_adds == 3 * 16 and rows["U-Net loop"].multiply_adds == 3 * 32
    assert profile.bottleneck().startswith("bottleneck: ") and profile.bottleneck() in profile.table()
    assert not model.diffusion_model.block["attn2"]._forward_hooks, "the network is as before"
    assert profile.environment["size"] == "64x32" and profile.environment["U-Net parameters"] == 40
    assert "U-Net loop" in profile.table() and profile.as_dict()["rows"][0]["component"] == "text encoder"


def test_an_upscaler_is_a_row_of_its_own(host, monkeypatch):
    monkeypatch.setattr("rapiddraw.core.upscale.tiles.upscale", lambda model, image, device=None: image)
    rows = profile_pipeline(FakeModel(), None, None, object(), Settings(64, 64, steps=1, runs=1, warmup=0)).rows
    assert "upscaler" in [row.component for row in rows]


@pytest.mark.parametrize(("dtype", "bytes_each"), [(torch.float32, 4), (torch.bfloat16, 2), (torch.float16, 2), (torch.float8_e4m3fn, 1)])
def test_weights_count_in_the_precision_they_are_stored_in(host, monkeypatch, dtype, bytes_each):
    model = FakeModel()
    model.diffusion_model.block["attn2"].to(dtype)  # attn1 stays in float32
    monkeypatch.setattr(host, "sample", lambda guider, latent, run: {"samples": latent["samples"]})
    profile = profile_pipeline(model, None, None, settings=Settings(64, 64, steps=1, runs=1, warmup=0))
    rows = {row.component: row for row in profile.rows}
    assert rows["U-Net loop"].megabytes == pytest.approx((20 * 4 + 20 * bytes_each) / 2**20)
    costs = {}
    with profiling.metered(model.diffusion_model, costs, count=True):
        pass
    assert (costs["self-attention"].bytes, costs["cross-attention"].bytes) == (80, 20 * bytes_each)


def test_the_median_and_the_quartiles_are_those_of_the_runs():
    rows = profiling._rows({"text encoder": [1.0, 2.0, 9.0], "U-Net loop": [3.0, 3.0, 3.0], "cross-attention": [1.0, 1.0, 1.0]})
    assert [(row.component, row.median_ms, row.iqr_ms) for row in rows] == [
        ("text encoder", 2.0, 4.0), ("U-Net loop", 3.0, 0.0), ("cross-attention", 1.0, 0.0), ("total", 5.0, 4.0),
    ]  # fmt: skip
    assert rows[1].share == pytest.approx(0.6)


def test_the_chart_is_an_image():
    chart = draw_chart(Profile((Row("a", 3.0, 1.0, 0.3), Row("b", 1.0, 0.0, 0.1, True), Row("total", 10.0, 1.0, 1.0)), {}))
    assert chart.shape[0] == 1 and chart.shape[2:] == (640, 3) and 0 <= float(chart.min()) < float(chart.max()) <= 1


@pytest.mark.parametrize("wrong", [{"width": 8}, {"height": 5000}, {"steps": 0}, {"runs": 0}, {"warmup": -1}, {"width": 100}])
def test_numbers_are_checked_again(host, wrong):
    with pytest.raises(InputError):
        profile_pipeline(FakeModel(), None, None, settings=Settings(**wrong))
    assert host.calls == []


def test_a_stop_is_honoured(host):
    request_cancel()
    with pytest.raises(Cancelled):
        profile_pipeline(FakeModel(), None, None)
