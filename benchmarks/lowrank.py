"""Does a low-rank student do as its teacher does? Trained from nothing, from the teacher's SVD, and distilled, all for equally long.

The teacher is the shipped U-Net. Every row is trained anew for the same few steps on the same batches (text encoder frozen): a dense and a
low-rank U-Net from nothing, the teacher's SVD on the plain diffusion loss, the SVD on the teacher's outputs, and on its feature maps as
well; also at a ratio where the SVD alone is far from its teacher. AA and FID-A of drawn pictures; the error of the predicted noise against
the noise and against the teacher's prediction, on held-out renders. ELR-Diffusion, table 1; its own numbers are of another scale.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import common

log = logging.getLogger("rapiddraw")
CFG, STEPS = 3.0, 20
TASK, DISTILLED = {"noise": 0.0, "task": 1.0}, {"noise": 1.0}
STUDENTS: dict[str, dict[str, Any]] = {
    "low-rank from nothing": {**TASK, "init": "random"},
    "SVD, trained": TASK,
    "SVD, distilled": DISTILLED,
    "SVD, distilled with features": {**DISTILLED, "features": 0.1},
}
AT_HARDER = ("SVD, trained", "SVD, distilled")
SCRATCH_LR, SVD_LR = 1e-3, 5e-4  # what starts from the teacher is near it and needs smaller steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="training pictures with captions (default: as many as --pictures are drawn)")
    parser.add_argument("--pictures", type=int, default=2000, help="pictures drawn where no --data is given (2000)")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each row (300)")
    parser.add_argument("--batch", type=int, default=16, help="pictures a training step (16)")
    parser.add_argument("--ratio", type=float, default=0.61, help="share of the parameters that is left (the paper's 0.61)")
    parser.add_argument("--harder", type=float, default=0.4, help="a second, smaller share (0.4)")
    parser.add_argument("--count", type=int, default=96, help="pictures that are judged in each row (96)")
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels (128)")
    parser.add_argument("--out", type=Path, default=Path("runs/lowrank"), help="folder of the trained models (kept and reused)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..core.bundles.find import resolve_bundle
    from ..core.orchard.dataset import write_dataset

    data = args.data or args.out / f"data-{args.pictures}-{args.size}"
    if not (data / "captions.jsonl").is_file():
        write_dataset("train", args.pictures, args.size, data)
    teacher = resolve_bundle("orchard-unet.safetensors", "unet")
    judged = _judge(args, teacher)
    rows: dict[tuple[str, float], dict[str, Any]] = {}

    def add(name: str, ratio: float, path: Path) -> None:
        rows[name, ratio] = {"model": name, "ratio": ratio, **judged(path)}
        log.info("%s at %g: %s", name, ratio, rows[name, ratio])  # a run takes minutes

    add("teacher", 1.0, teacher)
    add("dense from nothing", 1.0, _train_dense(args, data, teacher))
    for ratio, names in ((args.ratio, tuple(STUDENTS)), (args.harder, AT_HARDER)):
        add("SVD, not trained", ratio, _factor(args, teacher, ratio))
        for name in names:
            add(name, ratio, _train_student(args, data, teacher, ratio, name))
    aa = {key: row["AA"] for key, row in rows.items()}
    size = rows["SVD, distilled", args.ratio]["parameters"] / rows["teacher", 1.0]["parameters"]

    def above(better: tuple[str, float], worse: tuple[str, float]) -> dict[str, Any]:
        gain = round(aa[better] - aa[worse], 3)
        return common.check(f"AA of '{better[0]}' over '{worse[0]}' at {worse[1]:g} of the parameters", gain, "above 0", gain > 0)

    easy, hard = args.ratio, args.harder
    features = round(aa["SVD, distilled with features", easy] - aa["SVD, distilled", easy], 3)
    checks = [
        common.check("share of the teacher's parameters", round(size, 4), f"{easy:g}, or up to 0.01 less", easy - 0.01 <= size <= easy),
        above(("teacher", 1.0), ("SVD, distilled", easy)),
        above(("SVD, distilled", easy), ("SVD, trained", easy)),
        above(("SVD, trained", easy), ("low-rank from nothing", easy)),
        above(("SVD, distilled", easy), ("SVD, not trained", easy)),
        common.check("AA that the feature maps add", features, "at least 0", features >= 0),
        above(("SVD, distilled", hard), ("SVD, trained", hard)),
        above(("SVD, trained", hard), ("SVD, not trained", hard)),
    ]  # fmt: skip
    notes = (
        f"One training seed each: {args.steps} steps of batch {args.batch}, timesteps logit-normal, learning rate {SCRATCH_LR:g} "
        f"from nothing and {SVD_LR:g} from the SVD; the teacher had about 20,000 steps of batch 32. {args.count} pictures a row, "
        f"{STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}, seen names. FID-A is only comparable at equal numbers of pictures. eps error: "
        "mean squared error of the predicted noise against the noise that was added, on held-out renders over all timesteps; to the "
        "teacher: against its prediction."
    )
    given = "" if args.data is None else f" --data {args.data.name}"
    return common.result("lowrank", f"python -m rapiddraw bench lowrank{given}", list(rows.values()), checks, notes=notes)


def _parts() -> dict[str, str]:
    from ..core.bundles.find import resolve_bundle

    parts = {kind: str(resolve_bundle(f"orchard-{kind}.safetensors", kind)) for kind in ("vae", "text")}
    return {**parts, "graph": str(resolve_bundle("orchard-kg.safetensors", "kg"))}


def _fit(args: argparse.Namespace, name: str, recipe: str, settings: dict[str, Any]) -> Path:
    """Train by a recipe, unless the file is there already; a run that was stopped goes on."""
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
    """The teacher's SVD as a bundle."""
    from ..core.host import current
    from ..core.lowrank.factorize import factorize

    host, out = current(), args.out / f"svd-{ratio:g}.safetensors"
    if not out.is_file():
        low = host.surgery.rebuild(host.model.load(teacher), lambda network: factorize(network, "param_ratio", ratio, split="symmetric"))
        host.model.save(low, out, {"recipe": "svd"})
    return out


def _judge(args: argparse.Namespace, teacher: Path) -> Callable[[Path], dict[str, float]]:
    """A function that measures one U-Net."""
    import torch

    from ..core.bundles.find import resolve_bundle
    from ..core.host import current
    from ..core.knowledge.graph import load_knowledge
    from ..core.metrics.orchard import AA_ATTRIBUTES, FRUIT, evaluation_scenes, prompts_for, render_batch, sample_pictures
    from ..core.scoring.judge import attribute_accuracy, frechet_distance, judge_pictures, load_judge

    host = current()
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    parts = [resolve_bundle(f"orchard-{kind}.safetensors", kind) for kind in ("text", "vae")]
    _, clip, vae = host.load_bundles(teacher, *parts)
    clip = host.knowledge.attach(clip, load_knowledge(resolve_bundle("orchard-kg.safetensors", "kg")), 1.0)
    pairs = evaluation_scenes("seen", args.count)
    scenes, prompts = [scene for _, scene in pairs], prompts_for(pairs)
    others = render_batch([scene for _, scene in evaluation_scenes("seen", args.count, 1)], args.size)
    real = judge_pictures(judge, others)[1]
    shown = host.vae.encode(vae, (render_batch(scenes, args.size).permute(0, 2, 3, 1) + 1) / 2)
    noise = torch.randn(shown.shape, generator=torch.Generator().manual_seed(0))
    t = (torch.arange(args.count) * 389 % 1000).float()  # a stride that visits timesteps evenly
    tokens = torch.cat([host.clip.encode(clip, prompt)[0][0] for prompt in prompts])

    def predicted_noise(model: Any) -> torch.Tensor:
        sigma = model.get_model_object("model_sampling").sigma(t)
        x = model.model.process_latent_in(shown) + sigma.reshape(-1, 1, 1, 1) * noise
        return (x - model.model.apply_model(x, sigma, tokens)) / sigma.reshape(-1, 1, 1, 1)

    wanted = predicted_noise(host.model.load(teacher))

    def sample(model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int) -> Any:
        sigmas = host.sampling.calculate_sigmas(model, "karras", STEPS, "dpmpp_2m")
        return host.sampling.sample_custom(
            host.sampling.make_guider(model, positive, negative, CFG), host.sampling.named_sampler("dpmpp_2m"), sigmas, latent, seed
        )["samples"]

    def measure(path: Path) -> dict[str, float]:
        model = host.model.load(path)
        answers, features = judge_pictures(judge, sample_pictures(host, model, clip, vae, prompts, sample, args.size))
        made = predicted_noise(model)
        return {
            "parameters": sum(parameter.numel() for parameter in host.speed.network_of("model", model).parameters()),
            "AA": round(attribute_accuracy(answers, scenes, AA_ATTRIBUTES)["AA"], 3),
            "fruit AA": round(attribute_accuracy(answers, scenes, FRUIT)["AA"], 3),
            "FID-A": round(frechet_distance(features, real), 2),
            "eps error": round(float((made - noise).square().mean()), 4),
            "eps error to the teacher": round(float((made - wanted).square().mean()), 4),
        }

    return measure
