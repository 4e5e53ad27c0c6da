"""The shipped VAE's decoder with fewer channels, beside the whole one: a part of `bench mobile` (SnapFusion's image decoder)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .checks import CHOSEN, PAPER, Basis, Check, Expectation, above, at_least, at_most, exact
from .mobile_lab import SIDE, Lab
from .stopwatch import gain_cells, interleave, ratio, turns

if TYPE_CHECKING:
    from ..core.metrics.orchard import Floats

SHARES = (0.67, 0.34)
"""Shares of the channels. A group of the shipped decoder has three, so that two thirds and one third of them can be left."""
LEAST = 30.0
BATCH, LR = 2, 1e-3


def expectations(count: int, repeats: int) -> dict[str, Expectation]:
    """Return the expectations by key, for the smallest decoder."""
    basis, source = Basis(count), "SnapFusion's decoder: 13 of 50 M"
    wanted = {
        "parameters": Expectation("share of the decoder's parameters that is left", at_most(0.26), PAPER, exact(1, "networks"), source),
        "psnr": Expectation("dB of PSNR of the pruned decoder's pictures to the whole one's", at_least(LEAST), CHOSEN, basis),
    }
    if repeats:
        wanted["faster"] = Expectation("times as fast as the whole decoder", above(1), CHOSEN, turns(repeats))
    return wanted


def pruned(lab: Lab, share: float, steps: int) -> Any:
    """Return the VAE with a pruned decoder, trained for `steps` steps unless it lies in the folder."""
    from ..core.operations.distill import Run
    from ..core.operations.prune_vae import DecoderDistillation, Prune, prune_vae

    name = file_of(share)
    if not lab.made(name).is_file():
        with lab.open():
            prune = Prune(share, "pictures", "pictures", SIDE)
            prune_vae(lab.parts.vae, prune, name, DecoderDistillation(lr=LR, batch_size=BATCH), Run(steps))
    return lab.parts.host.vae.load(lab.made(name))


def file_of(share: float) -> str:
    """Return the name of the decoder that keeps `share` of its channels."""
    return f"decoder-{share:g}"


def measure(lab: Lab, steps: int) -> tuple[list[dict[str, Any]], list[Check]]:
    """Return (rows, checks)."""
    from ..core.metrics.bootstrap import mean

    wanted, host, (latents, _) = expectations(lab.count, lab.repeats), lab.parts.host, lab.held_out
    vaes = {"the shipped decoder": lab.parts.vae, **{f"pruned to {share:g}": pruned(lab, share, steps) for share in SHARES}}
    whole, *_, smallest = vaes
    shown = host.vae.decode(lab.parts.vae, latents)
    decode = {name: partial(host.vae.decode, vae, latents[:1]) for name, vae in vaes.items()}
    times = interleave(decode, lab.repeats, least=0.3) if lab.repeats else {}
    rows, sizes, fits = [], {}, {}
    for name, vae in vaes.items():
        sizes[name], work = _sizes(host, vae, latents[:1])
        row: dict[str, Any] = {"model": name, "parameters M": round(sizes[name] / 1e6, 3), "GMAC": round(work / 1e9, 3)}
        if name != whole:
            fits[name] = mean(psnr(host.vae.decode(vae, latents), shown))
            row |= {"PSNR dB": round(fits[name].value, 2), "PSNR 95%": [fits[name].low, fits[name].high]}
        if times:
            row |= {"ms": times[name].milliseconds(), **gain_cells(ratio(times[whole], times[name]), "times as fast")}
        rows.append(row)
    checks = [wanted["parameters"].judge(sizes[smallest] / sizes[whole]), wanted["psnr"].judge(fits[smallest])]
    if times:
        checks.append(wanted["faster"].judge(ratio(times[whole], times[smallest])))
    return rows, checks


def psnr(pictures: Any, others: Any) -> Floats:
    """Return the PSNR in dB (N,) of IMAGEs (N, H, W, 3) in [0, 1]."""
    result: Floats = (-10 * (pictures - others).double().square().flatten(1).mean(1).clamp(min=1e-12).log10()).numpy()
    return result


def _sizes(host: Any, vae: Any, latent: Any) -> tuple[int, int]:
    """Return (parameters, multiply-adds of one picture) of a VAE's decoder."""
    from diffusers import AutoencoderKL

    from ..core.lowrank.latency import layer_inputs, multiply_adds
    from ..core.metrics.blocks import weight_size
    from ..core.networks import network_of

    network: Any = network_of(AutoencoderKL, host.vae.export(vae))
    import torch

    with torch.no_grad():
        inputs = layer_inputs(network, lambda: network.decode(latent))
    return weight_size(network.decoder)[0], multiply_adds(network, inputs)
