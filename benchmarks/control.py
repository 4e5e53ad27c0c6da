"""Control adapters: cost and quality of a full copy of the encoder, a low-rank copy, and Kronecker updates of a frozen copy.

    python -m rapiddraw bench control

Three adapters of the shipped U-Net, trained alike for a short time on the Orchard's maps, then asked for pictures after maps of scenes that
no training showed. The adapters are taken from `runs/control-FORMAT.safetensors` where they exist, else trained there. Beside them the
quality of the shipped adapter is measured.

Edges are compared by an F-score with a tolerance of two pixels, and by the paper's NMSE, which has none: the renders themselves, encoded
and decoded once by the VAE, already have an NMSE of about 0.8, and shifted by one pixel 1.0. The row `renders through the VAE` gives both:
the best that an adapter could reach.

Training memory is counted, not read off the process, in which allocators and libraries hide it: the bytes of frozen weights (4 each), of
trained ones with gradient and both moments of Adam (16 each), all in float32, and of every tensor that one step keeps for its backward
pass. For a U-Net of Stable Diffusion 1.5's size the same count is made on shapes alone, without allocating memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, EARLIER, PAPER, Basis, Check, Expectation, at_least, at_most, exact
from .control_quality import CEILING, CFG, NAMES, SHIPPED, STEPS, iou_ratio, mean_iou, quality
from .stopwatch import interleave, ratio, turns

FORMATS = ("dense", "lowrank", "kronecker")
OWN, LARGE = "this U-Net, batch 16, bfloat16", "Stable Diffusion 1.5's size, 512 px, batch 1"
BATCH, RATIO, RANK, TURNS = 16, 0.33, 4, 7
SD15 = {"cross_attention_dim": 768}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench control`."""
    parser.add_argument("--count", type=int, default=48, help="pictures an adapter and condition (48)")
    parser.add_argument("--steps", type=int, default=700, help="optimizer steps of an adapter that is not there yet (700)")
    parser.add_argument("--data", default="data/train128", help="Orchard pictures with segmentation, edges and sketch maps, to train with")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis, counted, wanted = Basis(args.count), exact(1, "networks"), {}
    for kind in FORMATS[1:]:
        for table in (OWN, LARGE):
            saved = f"{NAMES[kind]}, {table.split(',')[0]}: share of the full copy's"
            trained, memory = f"{saved} trained parameters saved", f"{saved} training memory saved"
            wanted[f"{kind} {table} trained parameters"] = Expectation(trained, at_least(0.6), CHOSEN, counted)
            wanted[f"{kind} {table} training memory MB"] = Expectation(memory, at_least(0.3), PAPER, counted, "ELR-Diffusion, Table 2")
        seconds = f"{NAMES[kind]}, {OWN.split(',')[0]}: seconds an iteration over the full copy's"
        nmse, iou = f"{NAMES[kind]}: edge NMSE over the full copy's", f"{NAMES[kind]}: IoU over the full copy's"
        edges = f"{NAMES[kind]}: edge F-score over the full copy's"
        wanted[f"{kind} seconds"] = Expectation(seconds, at_most(1), EARLIER, turns(TURNS))
        wanted[f"{kind} F"] = Expectation(edges, at_least(0.9), EARLIER, basis)
        wanted[f"{kind} NMSE"] = Expectation(nmse, at_most(1.1), CHOSEN, basis)
        wanted[f"{kind} IoU"] = Expectation(iou, at_least(0.9), CHOSEN, basis)
    for kind in (SHIPPED, *FORMATS):
        edges = f"{NAMES[kind]}: edge F-score over that of the renders through the VAE"
        wanted[f"{kind} ceiling"] = Expectation(edges, at_least(0.8), CHOSEN, basis)
        wanted[f"{kind} segments"] = Expectation(f"{NAMES[kind]}: IoU", at_least(0.85), CHOSEN, basis)
    return wanted


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train what is not there, measure, and return the result (see :func:`common.result`)."""
    from ..core.metrics.bootstrap import ratio_of_means
    from .shipped import shipped

    wanted = expectations(args)
    files = {kind: _trained(kind, args.data, args.steps) for kind in FORMATS}
    own, slower = _costs(OWN)
    costs = [*own, *_costs_of_shapes(LARGE)]
    rows, found = quality({**files, SHIPPED: shipped("control", "control")}, args.count)
    checks: list[Check] = []
    full = found["dense"]
    for kind in FORMATS[1:]:
        for table in (OWN, LARGE):
            one, other = (next(row for row in costs if row["table"] == table and row["format"] == NAMES[name]) for name in (kind, "dense"))
            for key in ("trained parameters", "training memory MB"):
                checks.append(wanted[f"{kind} {table} {key}"].judge(1 - one[key] / other[key]))
        made = found[kind]
        checks += [
            wanted[f"{kind} seconds"].judge(slower[kind]),
            wanted[f"{kind} F"].judge(ratio_of_means(made.f_score, full.f_score)),
            wanted[f"{kind} NMSE"].judge(ratio_of_means(made.nmse, full.nmse)),
            wanted[f"{kind} IoU"].judge(iou_ratio(made.segments, full.segments)),
        ]
    for kind in (SHIPPED, *FORMATS):
        checks.append(wanted[f"{kind} ceiling"].judge(ratio_of_means(found[kind].f_score, found[CEILING].f_score)))
        checks.append(wanted[f"{kind} segments"].judge(mean_iou(found[kind].segments)))
    notes = (
        f"{args.count} scenes, {STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}. Edges are Canny edges of the pictures against those of the "
        "renders, with edges given; IoU with the segmentation given, classes found by the shipped segmenter; CLIP score with all three "
        "conditions. Seconds an iteration are medians of steps that took turns on this machine; Kronecker updates save memory and "
        "parameters, not time."
    )
    return common.result("control", "python -m rapiddraw bench control", [*costs, *rows], checks, notes=notes)


def _trained(kind: str, data: str, steps: int) -> Path:
    """Return the adapter of a format, from `runs` or by training it now."""
    from ..core.errors import InputError
    from ..core.train import make_recipe
    from ..core.train.loop import train
    from .shipped import shipped

    path = Path("runs") / f"control-{kind}.safetensors"
    if path.is_file():
        return path
    if not Path(data).is_dir():
        raise InputError(
            f"{path} is not there and no data to train it with: first `python -m rapiddraw data orchard --count 12000 --size 128 "
            f"--out {data} --maps segmentation,edges,sketch`"
        )
    bundles = {key: str(shipped(kind, kind)) for key, kind in {"base": "unet", "vae": "vae", "text": "text", "graph": "kg"}.items()}
    learned = {"lr": 1e-3, "warmup": 50, "timesteps": "logit_normal", "foreground": 8.0}
    return train(make_recipe("control", {**bundles, **learned, "data": data, "format": kind}), path, steps).files[0]


def _adapter(unet: Any, kind: str, by_shape: bool = False) -> Any:
    from ..core.control.adapter import copy_of_unet
    from ..core.lowrank.factorize import factorize, owner
    from ..core.lowrank.layers import replace_with_factors
    from ..core.lowrank.plan import targeted
    from ..core.lowrank.roles import DEFAULT_TARGETS
    from ..core.lowrank.svd import rank_for_ratio
    from ..core.train.recipes.control import freeze_with_updates

    adapter, _ = copy_of_unet(unet, 8)
    if kind == "kronecker":
        freeze_with_updates(adapter, RANK)
    elif kind == "lowrank" and by_shape:
        for name, _, layer in list(targeted(adapter.encoder, DEFAULT_TARGETS)):
            rank = rank_for_ratio(RATIO, layer.weight.shape[0], layer.weight[0].numel())
            replace_with_factors(*owner(adapter.encoder, name), rank)
    elif kind == "lowrank":
        factorize(adapter.encoder, "param_ratio", RATIO, split="symmetric")
    return adapter


def _costs(table: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows of counts and times of one training step beside the shipped U-Net, and seconds over the full copy's by format."""
    import torch
    from diffusers import UNet2DConditionModel

    from ..core.bundles.load import load_bundle
    from ..core.networks import network_of
    from .shipped import shipped

    unet = network_of(UNet2DConditionModel, load_bundle(shipped("unet", "unet"), "unet"))
    torch.manual_seed(0)
    given = (torch.randn(BATCH, 8, 16, 16), torch.randint(0, 1000, (BATCH,)), torch.randn(BATCH, 24, 192), torch.rand(BATCH, 9, 128, 128))
    adapters = {kind: _adapter(unet, kind) for kind in FORMATS}
    steps = {kind: _step(unet, adapter, given, True) for kind, adapter in adapters.items()}
    rows = [_row(table, kind, unet, adapters[kind], partial(steps[kind], True)) for kind in FORMATS]
    times = interleave(steps, TURNS)
    rows = [{**row, "seconds an iteration": round(times[kind].median, 3)} for row, kind in zip(rows, FORMATS, strict=True)]
    return rows, {kind: ratio(times[kind], times["dense"]) for kind in FORMATS}


def _costs_of_shapes(table: str) -> list[dict[str, Any]]:
    import torch
    from diffusers import UNet2DConditionModel

    rows = []
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**SD15).requires_grad_(False)
        given = (torch.empty(1, 4, 64, 64), torch.zeros(1, dtype=torch.int64), torch.empty(1, 77, 768), torch.empty(1, 9, 512, 512))
        for kind in FORMATS:
            adapter = _adapter(unet, kind, by_shape=True)
            step = _step(unet, adapter, given, False)
            rows.append(_row(table, kind, unet, adapter, partial(step, True)))
    return rows


def _step(unet: Any, adapter: Any, given: tuple[Any, ...], half: bool) -> Callable[..., None]:
    """Return a function that does one training step; with `forward_only` up to the loss."""
    from contextlib import nullcontext

    import torch
    from torch import autocast, bfloat16

    optimizer = torch.optim.AdamW([p for p in adapter.parameters() if p.requires_grad], lr=1e-4)

    def step(forward_only: bool = False) -> None:
        x, t, tokens, hint = given
        with autocast("cpu", bfloat16) if half else nullcontext():
            skips, middle = adapter(x, t, tokens, hint)
            more = {"down_block_additional_residuals": tuple(skips), "mid_block_additional_residual": middle}
            loss = unet(x, t, encoder_hidden_states=tokens, return_dict=False, **more)[0].float().square().mean()
        if not forward_only:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def _row(table: str, kind: str, unet: Any, adapter: Any, forward: Callable[[], None]) -> dict[str, Any]:
    from ..core.control.layers import parameters_of

    trained, every = parameters_of(adapter)
    kept = _kept_bytes(forward, [*unet.parameters(), *adapter.parameters()])
    state = 16 * trained + 4 * (every - trained)
    sizes = {"trained parameters": trained, "parameters": every, "weights and optimizer MB": round(state / 1e6, 1)}
    return {
        "table": table, "format": NAMES[kind], **sizes, "kept for backward MB": round(kept / 1e6, 1),
        "training memory MB": round((state + kept) / 1e6, 1),
    }  # fmt: skip


def _kept_bytes(forward: Callable[[], None], parameters: list[Any]) -> int:
    """Return the bytes of the tensors that `forward` keeps for a backward pass, each storage once, weights left out."""
    import torch

    known = {p.untyped_storage()._cdata for p in parameters}
    found: dict[int, int] = {}
    held = []

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            found[storage._cdata] = storage.nbytes()
            held.append(storage)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(found.values())
