"""U-Nets of `bench time_decoupled`: their training, their sizes and their work."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trained:
    """A trained U-Net: its file, its parameters, multiply-adds of one step and of its training."""

    path: Path
    parameters: int
    a_step: float
    training: float


def half_of(widths: tuple[int, ...], context: int = 128) -> tuple[int, ...]:
    """Return widths (multiples of 32, rising) of a U-Net with half the parameters of one of `widths`, within 5% where there is one.

    Of several, the one whose levels differ least is chosen.
    """
    import itertools

    whole = parameters_of(widths, context)
    choices = itertools.combinations_with_replacement(range(32, max(widths) + 1, 32), len(widths))
    apart = {given: abs(2 * parameters_of(given, context) / whole - 1) for given in choices}
    close = [given for given, share in apart.items() if share <= 0.05]
    return min(close, key=lambda given: max(given) / min(given)) if close else min(apart, key=lambda given: apart[given])


def parameters_of(widths: tuple[int, ...], context: int) -> int:
    """Return the parameters of a U-Net of `widths` that attends to `context` features."""
    return sum(parameter.numel() for parameter in _untrained(widths, context, 4).parameters())


def size_of(widths: tuple[int, ...], side: int) -> tuple[int, float]:
    """Return (parameters, multiply-adds of one evaluation) of an untrained U-Net of `widths` for the shipped VAE and text encoder."""
    from ..core.bundles.format import read_info
    from .shipped import shipped

    latent, text = (read_info(shipped(kind, kind), kind) for kind in ("vae", "text"))
    assert latent.latent is not None  # noqa: S101 - the bundle of a VAE has one
    unet = _untrained(widths, int(text.config["hidden_size"]), latent.latent.channels)
    return sum(parameter.numel() for parameter in unet.parameters()), _multiply_adds(unet, side)


def _untrained(widths: tuple[int, ...], context: int, channels: int) -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    from ..core.train.recipes.unet_shapes import unet_config

    with torch.device("meta"):
        return UNet2DConditionModel(**unet_config(channels, 16, widths, _attention(widths), context, 4))


def _attention(widths: tuple[int, ...]) -> tuple[int, ...]:
    return (0, *[1] * (len(widths) - 1))


def trained(out: Path, args: argparse.Namespace, data: Path, widths: tuple[int, ...], steps: int, settings: dict[str, Any]) -> Trained:
    """Train a U-Net, unless its file is there already, and count its work."""
    from ..core.bundles.load import load_bundle
    from ..core.train import make_recipe
    from ..core.train.loop import train
    from .shipped import shipped

    parts = {name: str(shipped(kind, kind)) for name, kind in {"vae": "vae", "text": "text", "graph": "kg"}.items()}
    shape = {"widths": widths, "attention": _attention(widths)}
    fixed = {"data": str(data), "batch_size": args.batch, "text_lr": 0.0, "foreground": args.foreground, **shape}
    if not out.is_file():
        recipe = make_recipe("unet", {"size": args.size, **parts, **fixed, **settings})
        train(recipe, out, steps, run_dir=out.with_suffix(""))
    bundle = load_bundle(out, "unet")
    trained_side = int(settings.get("size", args.size)) // 8
    return Trained(
        out,
        sum(tensor.numel() for tensor in bundle.tensors.values()),
        work_of(out, args.size // 8),
        3 * work_of(out, trained_side) * args.batch * steps,  # a backward pass costs two forward passes
    )


def work_of(path: Path, side: int) -> float:
    """Return the multiply-adds of one evaluation of the U-Net at `path`, for one picture of `side` latent cells."""
    from diffusers import UNet2DConditionModel

    from ..core.bundles.load import load_bundle
    from ..core.networks import network_of

    return _multiply_adds(network_of(UNet2DConditionModel, load_bundle(path, "unet")), side)


def _multiply_adds(unet: Any, side: int) -> float:
    """Return the multiply-adds of one evaluation of one picture of `side` latent cells."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    device = next(unet.parameters()).device
    context = torch.zeros(1, 32, int(unet.config["cross_attention_dim"]), device=device)
    state = torch.zeros(1, int(unet.config["in_channels"]), side, side, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(state, torch.zeros(1, device=device), encoder_hidden_states=context)
    return counter.get_total_flops() / 2


def cost(structure: Trained, texture: Trained) -> dict[str, Any]:
    """Return a row's cells about the size and the work of one or two U-Nets."""
    both = {structure.path: structure, texture.path: texture}.values()
    return {
        "parameters": "+".join(f"{one.parameters / 1e6:.2f} M" for one in both),
        "GMAC a step": round(max(one.a_step for one in both) / 1e9, 4),
        "GMAC in training": round(sum(one.training for one in both) / 1e9),
    }
