"""The latent-space bridge's nodes: the sampler and the guider draw the same, with everything handed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.core.host import current
from rapiddraw.nodes.bridge_latent import NODE_CLASS_MAPPINGS, LatentSpaceBridgeGuider, LatentSpaceBridgeSampler


def stock(name: str, **inputs: Any) -> Any:
    node = STOCK_NODES[name]()
    return getattr(node, node.FUNCTION)(**inputs)


@pytest.fixture(scope="module")
def pair(tiny_weights: Path) -> dict[str, Any]:
    model, clip, vae = current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))
    a, b, nothing = (current().clip.encode(clip, text) for text in ("a round red fruit", "a tall blue fruit", ""))
    return {
        "model_a": model, "vae_a": vae, "positive_a": a, "negative_a": nothing, "model_b": model, "vae_b": vae, "positive_b": b,
        "negative_b": nothing, "cfg_a": 3.0, "cfg_b": 2.0, "strength": 0.5, "start_percent": 0.0, "end_percent": 1.0, "bridge_every": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(pair: dict[str, Any]) -> dict[str, Any]:
    (noise,), (sampler,) = stock("RandomNoise", noise_seed=5), stock("KSamplerSelect", sampler_name="dpmpp_2m")
    (sigmas,) = stock("BasicScheduler", model=pair["model_a"], scheduler="normal", steps=3, denoise=1.0)
    return {"noise": noise, "sampler": sampler, "sigmas": sigmas}


@pytest.mark.parametrize("cells", [(4, 4), (6, 5)])
def test_the_sampler_and_the_guider_draw_the_same(pair: dict[str, Any], run: dict[str, Any], cells: tuple[int, int]) -> None:
    empty, second = {"samples": torch.zeros(1, 4, 4, 4)}, {"latent_b": {"samples": torch.zeros(1, 4, *cells)}}
    a, b, image = LatentSpaceBridgeSampler().execute(latent_a=empty, **second, **run, **pair)
    assert image.shape == (1, 32, 32, 3) and torch.equal(image, current().vae.decode(pair["vae_a"], a["samples"]))
    assert b["samples"].shape == (1, 4, *cells)
    (guider,) = LatentSpaceBridgeGuider().execute(**pair, **second)
    out, last = stock("SamplerCustomAdvanced", guider=guider, latent_image=empty, **run)
    assert torch.equal(out["samples"], a["samples"]) and last["samples"].shape == a["samples"].shape
    if cells == (4, 4):  # what is made where none is given
        again = LatentSpaceBridgeSampler().execute(latent_a=empty, **run, **pair)
        assert torch.equal(again[0]["samples"], a["samples"]) and torch.equal(again[1]["samples"], b["samples"])
        assert not torch.equal(a["samples"], b["samples"])


def test_strength_0_is_the_stock_guider(pair: dict[str, Any], run: dict[str, Any]) -> None:
    empty = {"samples": torch.zeros(1, 4, 4, 4)}
    (guider,) = LatentSpaceBridgeGuider().execute(**{**pair, "strength": 0.0})
    names = {"model": "model_a", "positive": "positive_a", "negative": "negative_a", "cfg": "cfg_a"}
    (plain,) = stock("CFGGuider", **{name: pair[key] for name, key in names.items()})
    drawn = [stock("SamplerCustomAdvanced", guider=one, latent_image=empty, **run)[0]["samples"] for one in (guider, plain)]
    assert torch.equal(*drawn)


def test_numbers_are_checked_before_anything_runs(pair: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="strength"):
        LatentSpaceBridgeGuider().execute(**{**pair, "strength": 2.0})


@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS.values())
def test_every_socket_and_widget_explains_itself(node: Any) -> None:
    for group in node.INPUT_TYPES().values():
        assert all(spec[1]["tooltip"] for spec in group.values())
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
    assert node.CATEGORY == "RapidDraw/bridge" and node.DESCRIPTION and callable(getattr(node, node.FUNCTION))
