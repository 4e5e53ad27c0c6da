"""Blocks of a MODEL's U-Net, of either host: left out by name, and rated by what they cost and change (SnapFusion, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..checks import whole_number
from ..diffusion.weighting import output_slope
from ..errors import InputError
from ..host import SamplingRun, current
from ..host.denoiser import together
from ..lowrank.savings import network_size
from ..progress import Progress
from ..slim.blocks import KINDS, Block, blocks_of, choose
from ..slim.rating import Rating, changes_without, latencies, rated
from ..slim.stand_ins import remove_named, without

MAX_PROMPTS, LEVELS = 16, 3
"""The most prompts that blocks are rated with, and at how many noise levels."""


@dataclass(frozen=True)
class Rate:
    """How blocks are rated: the side of the pictures in pixels, the seed of the noise, and which :data:`~..slim.blocks.KINDS`."""

    size: int = 512
    seed: int = 0
    kinds: Sequence[str] = KINDS
    steps: int = 8

    def check(self) -> None:
        """Raise :class:`InputError` for values out of range."""
        whole_number("size", self.size, 32, 4096)
        whole_number("steps", self.steps, 1, 1000)
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise InputError(f"kinds={', '.join(self.kinds) or '(none)'}: expected some of {', '.join(KINDS)}")


def skip_blocks(model: Any, patterns: str) -> tuple[Any, str]:
    """Return (a MODEL without the blocks that `patterns` name, a list of all blocks). Patches on `model`, such as LoRAs, are merged first.

    Without a name the given model itself comes back. `model` is not changed. Raises :class:`InputError` for a model that is no U-Net, and
    for a name that no block has."""
    host = current()
    network = host.speed.network_of("model", model)
    if not choose(blocks_of(network), patterns):
        return model, listing(network)

    def surgery(copy: Any) -> None:
        remove_named(copy, patterns)

    made = host.surgery.rebuild(model, surgery)
    small = host.speed.network_of("model", made)
    sizes = network_size(network)[0], network_size(small)[0]
    return made, f"{sizes[1]:,} of {sizes[0]:,} parameters are left\n{listing(small)}"


def listing(network: Any) -> str:
    """Return a line for each block: its name, its kind, its parameters, and whether it is removed."""
    lines = []
    for block in blocks_of(network):
        size = sum(p.numel() for p in block.module.parameters())
        lines.append(f"{block.name:<56}{block.kind:<17}{size / 1e6:>9.2f} M{'  removed' * block.is_removed}")
    return "\n".join(lines)


def rate_blocks(model: Any, clip: Any, prompts: str, rate: Rate, vae: Any = None, scorer: Any = None) -> list[Rating]:
    """Return the rating of every block of a MODEL's U-Net. `model` is not changed.

    `prompts` has one prompt a line. The states that the network is asked about come from its own sampling, at :data:`LEVELS` noise levels.
    With a `vae` and a `scorer` (:class:`~..scoring.clip_score.ClipScorer`) each block also has the drop of the pictures' CLIP score, drawn
    in `rate.steps` steps: the paper's measure. Raises :class:`InputError` before any work."""
    rate.check()
    texts = [line.strip() for line in prompts.splitlines() if line.strip()]
    if not 0 < len(texts) <= MAX_PROMPTS:
        raise InputError(f"{len(texts)} prompts were given: expected 1 to {MAX_PROMPTS}, one a line")
    if (vae is None) != (scorer is None):
        raise InputError("a score needs both a vae and a scorer: link a VAE and choose a scorer, or neither")
    host = current()
    blocks_of(host.speed.network_of("model", model))  # refuses what is no U-Net before anything is loaded
    conditions = [host.clip.encode(clip, text) for text in texts]
    host.training.check(model, conditions[0], rate.size)
    copy = host.surgery.rebuild(model, _unchanged)
    network = host.speed.network_of("model", copy)
    blocks = [block for block in blocks_of(network) if block.kind in rate.kinds and not block.is_removed]
    latent = {"samples": torch.zeros(1, 4, rate.size // 8, rate.size // 8), "downscale_ratio_spacial": 8}
    fitted = host.sampling.fit_latent(copy, latent)
    seconds = block_latencies(host, copy, blocks, fitted)
    changed = changes_without(network, blocks, predictions(host, copy, conditions, fitted["samples"], rate.seed))
    drops = {} if scorer is None else _drops(host, copy, blocks, (clip, vae, scorer), texts, fitted, rate)
    return rated(blocks, seconds, changed, drops)


def block_latencies(host: Any, model: Any, blocks: Sequence[Block], latent: Any) -> dict[str, float]:
    """Return :func:`~..slim.rating.latencies` of blocks of a MODEL's network at the size of a LATENT that fits it."""
    network, once = host.speed.network_of("model", model), host.surgery.evaluate(model, latent)
    return latencies(network, blocks, once, next(network.parameters()).device, "x".join(map(str, latent["samples"].shape)))


def predictions(host: Any, model: Any, conditions: Sequence[Any], samples: torch.Tensor, seed: int) -> Callable[[], list[torch.Tensor]]:
    """Return a function that gives the raw outputs of a MODEL's network, one batch of all `conditions` a noise level.

    The states lie on the model's own way from noise to pictures, by Euler's method without guidance."""
    denoiser = host.training.denoiser(model)
    shape = tuple(samples.shape[1:])
    given = together([dict(denoiser.condition(one, shape)) for one in conditions])
    given = {name: value.to(denoiser.device) for name, value in given.items()}
    first, beyond = denoiser.t_range
    marks = torch.linspace(beyond - 1, first, 2 * LEVELS + 1).round().long()
    sigmas = denoiser.sigmas[marks].to(denoiser.device)
    noise = torch.randn(len(conditions), *shape, generator=torch.Generator().manual_seed(seed)).to(denoiser.device)
    x, states = denoiser.noised(torch.zeros_like(noise), sigmas[0].expand(len(noise)), noise), []
    with torch.no_grad():
        for i in range(2 * LEVELS):
            sigma = sigmas[i].expand(len(x))
            if i % 2:  # not at the noisiest level, where a network has little to say
                states.append((x.clone(), sigma.clone()))
            x = x + (x - denoiser.denoise(x, sigma, given)) / sigmas[i] * (sigmas[i + 1] - sigmas[i])

    def predict() -> list[torch.Tensor]:
        with torch.no_grad():
            outputs = []
            for state, sigma in states:
                slope = output_slope(denoiser.prediction, sigma).reshape(-1, *[1] * (state.dim() - 1))
                outputs.append((denoiser.denoise(state, sigma, given) * slope).float())
            return outputs

    return predict


def _drops(
    host: Any, model: Any, blocks: Sequence[Block], parts: tuple[Any, Any, Any], texts: Sequence[str], latent: Any, rate: Rate
) -> dict[str, float]:
    """Return by how much the mean CLIP score of pictures falls without each block."""
    clip, vae, scorer = parts
    conds, empty = [host.clip.encode(clip, text) for text in texts], host.clip.encode(clip, "")

    def score() -> float:
        pictures = []
        for number, cond in enumerate(conds):
            guider = host.sampling.make_guider(model, cond, empty, 4.0)
            run = SamplingRun((rate.seed + number) % 2**64, rate.steps, "euler", "simple")
            pictures.append(host.vae.decode(vae, host.sampling.sample(guider, latent, run)["samples"]).movedim(-1, 1) * 2 - 1)
        return float(scorer.score(torch.cat(pictures).float(), texts).mean())

    network, found, before = host.speed.network_of("model", model), {}, score()
    with Progress(len(blocks), "drawing without blocks", "block") as bar:
        for block in blocks:
            with without(network, [block]):
                found[block.name] = before - score()
            bar.update()
    return found


def _unchanged(_: Any) -> None:
    return None
