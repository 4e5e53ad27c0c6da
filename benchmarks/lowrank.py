"""Low-rank students beside their teacher: trained from nothing, from the teacher's SVD, and distilled, all for equally long.

    python -m rapiddraw bench lowrank

The teacher is the shipped U-Net. Every row is trained for the same few steps on the same batches (text encoder frozen): a dense and a
low-rank U-Net from nothing, the teacher's SVD on the plain diffusion loss, the SVD on the teacher's outputs, and on its feature maps as
well; also at a ratio where the SVD alone is far from its teacher. Measured are the attribute accuracy (AA) of drawn pictures, FID-A from
1000 pictures, and the error of the predicted noise against the noise and against the teacher's prediction, on held-out renders.
ELR-Diffusion, table 1; its own numbers are of another scale.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, EARLIER, PAPER, Basis, Expectation, above, at_least, between, exact

log = logging.getLogger("rapiddraw")
CFG, STEPS = 3.0, 20
SOURCE = "ELR-Diffusion, Table 1"
TASK, DISTILLED = {"noise": 0.0, "task": 1.0}, {"noise": 1.0}
STUDENTS: dict[str, dict[str, Any]] = {
    "low-rank from nothing": {**TASK, "init": "random"},
    "SVD, trained": TASK,
    "SVD, distilled": DISTILLED,
    "SVD, distilled with features": {**DISTILLED, "features": 0.1},
}
AT_HARDER = ("SVD, trained", "SVD, distilled")
SCRATCH_LR, SVD_LR = 1e-3, 5e-4  # a student that starts from the teacher is near it and needs smaller steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench lowrank`."""
    parser.add_argument("--data", type=Path, help="training pictures with captions (default: as many as --pictures are drawn)")
    parser.add_argument("--pictures", type=int, default=2000, help="pictures drawn where no --data is given (2000)")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each row (300)")
    parser.add_argument("--batch", type=int, default=16, help="pictures a training step (16)")
    parser.add_argument("--ratio", type=float, default=0.61, help="share of the parameters that is left (the paper's 0.61)")
    parser.add_argument("--harder", type=float, default=0.4, help="a second, smaller share (0.4)")
    parser.add_argument("--count", type=int, default=96, help="pictures that are judged in each row (96)")
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels (128)")
    parser.add_argument("--out", type=Path, default=Path("runs/lowrank"), help="folder of the trained models (kept and reused)")


Row = tuple[str, float]


def _orders(args: argparse.Namespace) -> dict[str, tuple[Row, Row, str]]:
    """Return by key which row is expected to be better than which, and the origin of that."""
    easy, hard = args.ratio, args.harder
    teacher, made, distilled = ("teacher", 1.0), "SVD, trained", "SVD, distilled"
    return {
        "teacher": (teacher, (distilled, easy), CHOSEN),
        "distilled": ((distilled, easy), (made, easy), CHOSEN),
        "svd": ((made, easy), ("low-rank from nothing", easy), CHOSEN),
        "untrained": ((distilled, easy), ("SVD, not trained", easy), EARLIER),
        "harder": ((distilled, hard), (made, hard), EARLIER),
        "harder svd": ((made, hard), ("SVD, not trained", hard), EARLIER),
    }


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis = Basis(args.count)
    share = Expectation("share of the teacher's parameters", between(args.ratio - 0.01, args.ratio), PAPER, exact(1, "networks"), SOURCE)
    wanted = {"share": share}
    for key, (better, worse, origin) in _orders(args).items():
        claim = f"attribute accuracy of '{better[0]}' over '{worse[0]}' at {worse[1]:g} of the parameters"
        wanted[key] = Expectation(claim, above(0), origin, basis)
    return wanted | {"features": Expectation("attribute accuracy that the feature maps add", at_least(0), CHOSEN, basis)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train what is not there, measure, and return the result (see :func:`common.result`)."""
    from ..core.metrics.bootstrap import difference
    from ..core.orchard.dataset import write_dataset
    from .shipped import shipped

    wanted = expectations(args)
    data = args.data or args.out / f"data-{args.pictures}-{args.size}"
    if not (data / "captions.jsonl").is_file():
        write_dataset("train", args.pictures, args.size, data)
    teacher = shipped("unet", "unet")
    judged = _judge(args, teacher)
    rows: dict[Row, dict[str, Any]] = {}
    accuracy: dict[Row, Any] = {}

    def add(name: str, ratio: float, path: Path) -> None:
        accuracy[name, ratio], cells = judged(path)
        rows[name, ratio] = {"model": name, "ratio": ratio, "pictures": args.count, **cells}
        log.info("%s at %g: %s", name, ratio, rows[name, ratio])  # a run takes minutes

    add("teacher", 1.0, teacher)
    add("dense from nothing", 1.0, _train_dense(args, data, teacher))
    for ratio, names in ((args.ratio, tuple(STUDENTS)), (args.harder, AT_HARDER)):
        add("SVD, not trained", ratio, _factor(args, teacher, ratio))
        for name in names:
            add(name, ratio, _train_student(args, data, teacher, ratio, name))
    size = rows["SVD, distilled", args.ratio]["parameters"] / rows["teacher", 1.0]["parameters"]
    features = accuracy["SVD, distilled with features", args.ratio]
    checks = [wanted["share"].judge(size)]
    checks += [wanted[key].judge(difference(accuracy[one], accuracy[other])) for key, (one, other, _) in _orders(args).items()]
    checks.append(wanted["features"].judge(difference(features, accuracy["SVD, distilled", args.ratio])))
    notes = (
        f"One training seed each: {args.steps} steps of batch {args.batch}, timesteps logit-normal, learning rate {SCRATCH_LR:g} "
        f"from nothing and {SVD_LR:g} from the SVD; the teacher had about 20,000 steps of batch 32. {args.count} pictures a row, "
        f"{STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}, seen names. eps error: mean squared error of the predicted noise against the "
        "noise that was added, on held-out renders over all timesteps; to the teacher: against its prediction."
    )
    given = "" if args.data is None else f" --data {args.data.name}"
    return common.result("lowrank", f"python -m rapiddraw bench lowrank{given}", list(rows.values()), checks, notes=notes)


def _parts() -> dict[str, str]:
    from .shipped import shipped

    return {name: str(shipped(kind, kind)) for name, kind in {"vae": "vae", "text": "text", "graph": "kg"}.items()}


def _fit(args: argparse.Namespace, name: str, recipe: str, settings: dict[str, Any]) -> Path:
    """Train by a recipe, unless the file is there already; a training that was stopped goes on."""
    from ..core.train import make_recipe
    from ..core.train.loop import Intervals, train

    out = args.out / f"{name}.safetensors"
    if not out.is_file():
        same = {"batch_size": args.batch, "size": args.size, "timesteps": "logit_normal", "warmup": args.steps // 10, **_parts()}
        train(make_recipe(recipe, {**same, **settings}), out, args.steps, run_dir=out.with_suffix(""), every=Intervals(save=100))
    return out


def _train_dense(args: argparse.Namespace, data: Path, teacher: Path) -> Path:
    from ..core.bundles.format import read_info

    info = read_info(teacher)
    config, prediction = info.config, "v" if info.schedule is None else info.schedule.prediction
    crossed = tuple(int(kind.startswith("Cross")) for kind in config["down_block_types"])
    shape = {"widths": tuple(config["block_out_channels"]), "attention": crossed, "heads": config["attention_head_dim"]}
    more = {"lr": SCRATCH_LR, "ema": 0.0, "text_lr": 0.0, "prediction": prediction}
    return _fit(args, "dense-unet", "unet", {"data": str(data), **shape, **more})


def _train_student(args: argparse.Namespace, data: Path, teacher: Path, ratio: float, name: str) -> Path:
    settings = STUDENTS[name]
    lr = SCRATCH_LR if settings.get("init") == "random" else SVD_LR
    file = f"{name.replace(', ', '-').replace(' ', '-').lower()}-{ratio:g}"
    return _fit(args, file, "distill", {"data": str(data), "teacher": str(teacher), "value": ratio, "lr": lr, **settings})


def _factor(args: argparse.Namespace, teacher: Path, ratio: float) -> Path:
    """Return the teacher's SVD as a bundle."""
    from ..core.host import current
    from ..core.lowrank.factorize import factorize

    host, out = current(), args.out / f"svd-{ratio:g}.safetensors"
    if not out.is_file():
        low = host.surgery.rebuild(host.model.load(teacher), lambda network: factorize(network, "param_ratio", ratio, split="symmetric"))
        host.model.save(low, out, {"recipe": "svd"})
    return out


def _judge(args: argparse.Namespace, teacher: Path) -> Callable[[Path], tuple[Any, dict[str, Any]]]:
    """Return a function that measures one U-Net: (attribute accuracy of each picture, the row's cells)."""
    import torch
    from einops import rearrange

    from ..core.metrics.blocks import weight_size
    from ..core.metrics.orchard import (
        AA_ATTRIBUTES,
        FRUIT,
        accuracy_by_picture,
        evaluation_scenes,
        fid_a,
        prompts_for,
        render_batch,
        sample_pictures,
    )  # fmt: skip
    from ..core.scoring.judge import judge_pictures
    from .shipped import sampling, shipped_judge, shipped_parts

    judge, parts = shipped_judge(), shipped_parts(teacher)
    host, vae = parts.host, parts.vae
    pairs = evaluation_scenes("seen", args.count)
    scenes, prompts = [scene for _, scene in pairs], prompts_for(pairs)
    others = render_batch([scene for _, scene in evaluation_scenes("seen", args.count, 1)], args.size)
    real = judge_pictures(judge, others)[1]
    shown = host.vae.encode(vae, rearrange(render_batch(scenes, args.size), "b c h w -> b h w c") / 2 + 0.5)
    noise = torch.randn(shown.shape, generator=torch.Generator().manual_seed(0))
    t = (torch.arange(args.count) * 389 % 1000).float()  # a stride that visits timesteps evenly
    tokens = torch.cat([host.clip.encode(parts.clip, prompt)[0][0] for prompt in prompts])

    def predicted_noise(model: Any) -> torch.Tensor:
        sigma = model.get_model_object("model_sampling").sigma(t)
        x = model.model.process_latent_in(shown) + sigma.reshape(-1, 1, 1, 1) * noise
        return (x - model.model.apply_model(x, sigma, tokens)) / sigma.reshape(-1, 1, 1, 1)

    expected = predicted_noise(parts.model)

    def measure(path: Path) -> tuple[Any, dict[str, Any]]:
        model = host.model.load(path)
        pictures = sample_pictures(replace(parts, model=model), prompts, sampling(host, CFG, STEPS), args.size)
        answers, features = judge_pictures(judge, pictures)
        made, accuracy = predicted_noise(model), accuracy_by_picture(answers, scenes, AA_ATTRIBUTES)
        return accuracy, {
            "parameters": weight_size(host.speed.network_of("model", model))[0],
            "AA": round(float(accuracy.mean()), 3),
            "fruit AA": round(float(accuracy_by_picture(answers, scenes, FRUIT).mean()), 3),
            "FID-A": fid_a(features, real),
            "eps error": round(float((made - noise).square().mean()), 4),
            "eps error to the teacher": round(float((made - expected).square().mean()), 4),
        }

    return measure
