"""What does control cost, and what does it give: a full copy of the encoder, a low-rank copy, and Kronecker updates of a frozen copy.

Three adapters of the shipped U-Net, trained alike for a short time on the Orchard's maps, then asked for pictures after maps of scenes that
no training showed. The adapters are taken from `runs/control-FORMAT.safetensors` where they exist, else trained there.

Training memory is counted, not read off the process, in which allocators and libraries hide it: the bytes of frozen weights (4 each), of
trained ones with gradient and both moments of Adam (16 each), and of every tensor that one step keeps for its backward pass. For a U-Net of
Stable Diffusion 1.5's size the same count is made without any memory, on shapes alone, in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import common

FORMATS = ("dense", "lowrank", "kronecker")
NAMES = {"dense": "full copy", "lowrank": "low-rank copy", "kronecker": "frozen copy + Kronecker"}
BATCH, RATIO, RANK = 16, 0.33, 4
STEPS, CFG = 12, 3.0
SD15 = {"cross_attention_dim": 768}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=48, help="pictures an adapter and condition (48)")
    parser.add_argument("--steps", type=int, default=700, help="optimizer steps of an adapter that is not there yet (700)")
    parser.add_argument("--data", default="data/train128", help="Orchard pictures with segmentation, edges and sketch maps, to train with")


def run(args: argparse.Namespace) -> dict[str, Any]:
    count = getattr(args, "count", 48)
    files = {kind: _trained(kind, getattr(args, "data", "data/train128"), getattr(args, "steps", 700)) for kind in FORMATS}
    costs = [*_costs("this U-Net, batch 16, bfloat16"), *_costs_of_shapes("Stable Diffusion 1.5's size, 512 px, batch 1")]
    quality = _quality(files, count)
    by_format = {row["format"]: row for row in quality}
    checks = []
    for kind in FORMATS[1:]:
        for table in ("this U-Net, batch 16, bfloat16", "Stable Diffusion 1.5's size, 512 px, batch 1"):
            one, full = (next(row for row in costs if row["table"] == table and row["format"] == NAMES[name]) for name in (kind, "dense"))
            for key, least in (("trained parameters", 0.6), ("training memory MB", 0.3)):
                saved = 1 - one[key] / full[key]
                claim = f"{NAMES[kind]}, {table.split(',')[0]}: {key} saved"
                checks.append(common.check(claim, round(saved, 3), f"at least {least}", saved >= least))
        one, full = by_format[NAMES[kind]], by_format[NAMES["dense"]]
        worse = one["edge NMSE"] / full["edge NMSE"] - 1
        less = 1 - one["IoU"] / full["IoU"]
        checks.append(common.check(f"{NAMES[kind]}: edge NMSE above the full copy's", round(worse, 3), "at most 0.10", worse <= 0.1))
        checks.append(common.check(f"{NAMES[kind]}: IoU below the full copy's", round(less, 3), "at most 0.10", less <= 0.1))
    notes = (
        f"{count} scenes, {STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}. Edge NMSE is of Canny edges of the pictures against those of "
        "the renders, with edges given; IoU with the segmentation given, classes found by the shipped segmenter; CLIP score and FID-A "
        "with all three conditions. Seconds an iteration are medians of interleaved steps on this machine."
    )
    return common.result("control", "python -m rapiddraw bench control", [*costs, *quality], checks, notes=notes)


def _trained(kind: str, data: str, steps: int) -> Path:
    from ..core.bundles.find import resolve_bundle
    from ..core.errors import InputError
    from ..core.train import make_recipe
    from ..core.train.loop import train

    path = Path("runs") / f"control-{kind}.safetensors"
    if path.is_file():
        return path
    if not Path(data).is_dir():
        raise InputError(
            f"{path} is not there and no data to train it with: first `python -m rapiddraw data orchard --count 12000 --size 128 "
            f"--out {data} --maps segmentation,edges,sketch`"
        )
    bundles = {key: str(resolve_bundle(f"orchard-{name}.safetensors", name)) for key, name in
               (("base", "unet"), ("vae", "vae"), ("text", "text"), ("graph", "kg"))}  # fmt: skip
    learned = {"lr": 1e-3, "warmup": 50, "timesteps": "logit_normal", "foreground": 8.0}
    return train(make_recipe("control", {**bundles, **learned, "data": data, "format": kind}), path, steps).files[0]


def _adapter(unet: Any, kind: str, by_shape: bool = False) -> Any:
    from ..core.control.adapter import copy_of_unet
    from ..core.lowrank.factorize import factorize, owner
    from ..core.lowrank.layers import replace_with_factors
    from ..core.lowrank.plan import TARGETS, targeted
    from ..core.lowrank.svd import rank_for_ratio
    from ..core.train.recipes.control import freeze_with_updates

    adapter, _ = copy_of_unet(unet, 8)
    if kind == "kronecker":
        freeze_with_updates(adapter, RANK)
    elif kind == "lowrank" and by_shape:
        for name, _, layer in list(targeted(adapter.encoder, tuple(TARGETS))):
            rank = rank_for_ratio(RATIO, layer.weight.shape[0], layer.weight[0].numel())
            replace_with_factors(*owner(adapter.encoder, name), rank)
    elif kind == "lowrank":
        factorize(adapter.encoder, "param_ratio", RATIO, split="symmetric")
    return adapter


def _costs(table: str) -> list[dict[str, Any]]:
    """Counts and times of one training step beside the shipped U-Net."""
    import statistics

    import torch
    from diffusers import UNet2DConditionModel

    from ..core.bundles.find import resolve_bundle
    from ..core.bundles.load import load_bundle
    from ..core.device import timed
    from ..core.networks import network_of

    unet = network_of(UNet2DConditionModel, load_bundle(resolve_bundle("orchard-unet.safetensors", "unet"), "unet"))
    torch.manual_seed(0)
    given = (torch.randn(BATCH, 8, 16, 16), torch.randint(0, 1000, (BATCH,)), torch.randn(BATCH, 24, 192), torch.rand(BATCH, 9, 128, 128))
    adapters = {kind: _adapter(unet, kind) for kind in FORMATS}
    steps = {kind: _step(unet, adapter, given, True) for kind, adapter in adapters.items()}
    rows = [_row(table, kind, unet, adapters[kind], partial(steps[kind], True)) for kind in FORMATS]
    seconds: dict[str, list[float]] = {kind: [] for kind in FORMATS}
    for _ in range(6):  # interleaved; the first round is not counted
        for kind in FORMATS:
            seconds[kind].append(timed(steps[kind], torch.device("cpu"))[1])
    return [
        {**row, "seconds an iteration": round(statistics.median(seconds[kind][1:]), 3)} for row, kind in zip(rows, FORMATS, strict=True)
    ]


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
    """One training step; with `forward_only` up to the loss."""
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
    """Bytes of the tensors that `forward` keeps for a backward pass, each storage once, weights left out."""
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


def _quality(files: dict[str, Path], count: int) -> list[dict[str, Any]]:
    import torch

    from ..core.bundles.find import resolve_bundle
    from ..core.control.apply import apply_adapter
    from ..core.control.hints import map_hint
    from ..core.control.maps import canny
    from ..core.host import SamplingRun, current
    from ..core.knowledge.graph import load_knowledge
    from ..core.metrics.orchard import evaluation_scenes, prompts_for, render_batch, sample_pictures
    from ..core.metrics.scores import Towers, controllability
    from ..core.orchard.render import render_maps
    from ..core.scoring.judge import frechet_distance, judge_pictures, load_judge

    host = current()
    model, clip, vae = host.load_bundles(*(resolve_bundle(f"orchard-{kind}.safetensors", kind) for kind in ("unet", "text", "vae")))
    kg = resolve_bundle("orchard-kg.safetensors", "kg")
    clip = host.knowledge.attach(clip, load_knowledge(kg), 1.0)
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    segmenter = resolve_bundle("orchard-segmenter.safetensors", "segmenter")
    names = [resolve_bundle(f"pretrained-orchard-{kind}.safetensors", kind) for kind in ("text", "image")]
    pairs = evaluation_scenes("seen", count, seed=3)
    scenes, prompts = [scene for _, scene in pairs], prompts_for(pairs)
    real = render_batch(scenes, 128)
    others = render_batch([scene for _, scene in evaluation_scenes("seen", count, seed=4)], 128)
    drawn = [render_maps(scene, 128) for scene in scenes]
    maps = {kind: torch.stack([map_hint(kind, torch.from_numpy(one[kind].copy())) for one in drawn]) for kind in ("segmentation", "sketch")}
    maps["edges"] = canny(real / 2 + 0.5)[:, None].expand(-1, 3, -1, -1)
    images = {kind: hint.movedim(1, -1) for kind, hint in maps.items()}

    def pictures(net: Any, *kinds: str) -> Any:
        def sample(model: Any, positive: Any, negative: Any, latent: Any, seed: int) -> Any:
            if net is not None:
                positive, negative = apply_adapter(positive, negative, net, {kind: images[kind] for kind in kinds}, 1.0, 0.0, 1.0)
            return host.sampling.sample(
                host.sampling.make_guider(model, positive, negative, CFG), latent, SamplingRun(seed, STEPS, "dpmpp_2m", "karras")
            )["samples"]

        return sample_pictures(host, model, clip, vae, prompts, sample, batch=count)

    rows = []
    for kind, path in {"none": None, **files}.items():
        net = None if path is None else host.control.load(path, "edges")
        by_edges = pictures(net, "edges") / 2 + 0.5
        same = net is None
        by_segments, by_all = (by_edges if same else pictures(net, *kinds) / 2 + 0.5 for kinds in (("segmentation",), tuple(images)))
        nothing = Towers(Path(), Path())
        nmse = controllability(by_edges.movedim(1, -1), "", nothing, None, images["edges"])["edge NMSE"]
        iou = controllability(by_segments.movedim(1, -1), "", nothing, segmenter, None, images["segmentation"])["IoU"]
        clip_score = controllability(by_all.movedim(1, -1), "\n".join(prompts), Towers(*names, kg))["CLIP score"]
        features = judge_pictures(judge, by_all * 2 - 1)[1]
        fid = frechet_distance(features, judge_pictures(judge, others)[1])
        shown = {"edge NMSE": nmse, "IoU": iou, "CLIP score": clip_score, "FID-A": fid}
        name = NAMES.get(kind, "no control")
        rows.append({"table": "quality", "format": name, "pictures": count, **{key: round(value, 4) for key, value in shown.items()}})
    return rows
