"""The resolution bridge's nodes: they hand on what they were given, and the graph of parts equals the one node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.core.host import current
from rapiddraw.nodes.bridge_resolution import METHODS, NODE_CLASS_MAPPINGS, NoiseCorrelation, ResolutionBridge, ResolutionBridgeSampler


@pytest.fixture(scope="module")
def parts(tiny_weights: Path) -> tuple[Any, ...]:
    model, clip, vae = current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))
    return model, vae, current().clip.encode(clip, "a round red fruit"), current().clip.encode(clip, "")


def stock(name: str, **inputs: Any) -> Any:
    node = STOCK_NODES[name]()
    return getattr(node, node.FUNCTION)(**inputs)


def test_the_graph_of_parts_equals_the_one_node_and_leaves_white_noise(parts: tuple[Any, ...]) -> None:
    model, vae, positive, negative = parts
    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    size = {"scale_by": 3.0, "width": 0, "height": 0, "upscale_method": "bilinear", "tile": 0}
    one, image = ResolutionBridgeSampler().execute(
        model, model, positive, negative, positive, negative, vae, vae, empty,
        seed=3, steps=4, cfg_low=2.0, cfg_high=3.0, sampler_name="euler", scheduler="simple", t_low=500, **size,
    )  # fmt: skip
    (sigmas,) = stock("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0)
    high, low = stock("SplitSigmasDenoise", sigmas=sigmas, denoise=0.5)
    (sampler,) = stock("KSamplerSelect", sampler_name="euler")

    def draw(cfg: float, seed: int, sigmas: Any, latent: Any) -> Any:
        (guider,) = stock("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)
        (noise,) = stock("RandomNoise", noise_seed=seed)
        return stock("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent)[0]

    first = draw(2.0, 3, high, empty)
    bridged, seen, rest = ResolutionBridge().execute(model, positive, negative, vae, vae, first, high, 2.0, extra_eval=True, **size)
    assert len(rest) == 0
    assert torch.equal(seen, image) and torch.equal(draw(3.0, 4, low, bridged)["samples"], one["samples"])
    (noise,) = stock("RandomNoise", noise_seed=4)
    (noisy,) = stock("AddNoise", model=model, noise=noise, sigmas=low, latent_image=bridged)
    correlation, std, text = NoiseCorrelation().execute(model, noisy, bridged, low)
    assert abs(correlation) < 0.06 and abs(std - 1) < 0.06 and "white noise" in text  # 2304 cells scatter by 0.015


def test_what_the_stock_way_does_to_the_noise(parts: tuple[Any, ...]) -> None:
    model = parts[0]
    latent, sigmas = {"samples": torch.rand(2, 4, 32, 32)}, torch.tensor([1.5, 0.0])
    (noise,) = stock("RandomNoise", noise_seed=1)
    (noisy,) = stock("AddNoise", model=model, noise=noise, sigmas=sigmas, latent_image=latent)
    pair = [stock("LatentUpscaleBy", samples=one, upscale_method="bilinear", scale_by=2.0)[0] for one in (noisy, latent)]
    correlation, std, _ = NoiseCorrelation().execute(model, *pair, sigmas)
    assert correlation == pytest.approx(0.747, abs=0.03) and std == pytest.approx(0.636, abs=0.03)
    assert stock("AddNoise", model=model, noise=noise, sigmas=sigmas[:0], latent_image=latent)[0] is latent


def test_split_sigmas_denoise_is_comfyuis() -> None:
    sigmas = torch.arange(5.0).flip(0)
    for share, high, low in ((0.5, [4, 3, 2], [2, 1, 0]), (1.0, [4], [4, 3, 2, 1, 0]), (0.0, [], [0])):
        found = stock("SplitSigmasDenoise", sigmas=sigmas, denoise=share)
        assert [part.tolist() for part in found] == [high, low]


@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS.values())
def test_every_socket_and_widget_explains_itself(node: Any) -> None:
    for group in node.INPUT_TYPES().values():
        assert all(spec[1]["tooltip"] for spec in group.values())
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
    assert node.CATEGORY == "RapidDraw/bridge" and node.DESCRIPTION and callable(getattr(node, node.FUNCTION))


def test_the_methods_are_cores() -> None:
    from rapiddraw.core.bridge.resample import UPSCALE_METHODS

    assert tuple(METHODS) == UPSCALE_METHODS
