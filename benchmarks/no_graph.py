"""Fruits that no caption named, drawn by a model that was trained without the knowledge graph, beside one trained with it at equal cost.

    python -m rapiddraw bench no_graph

`bench orchard` switches the knowledge of one model off. Here two models differ in their training: the text encoder and the U-Net of `graph`
read names through the Orchard's graph, those of `none` never do. Pictures, captions, seed, batches and numbers of steps are the same.

* The text encoders are those of `bench retrieval`: both go on from a start whose captions never named a fruit.
* The U-Nets have the shipped shape. Training one from nothing takes hours, so both go on from one start that cannot read: the shipped U-Net
  whose cross-attention has new random weights and gives zero. Only these layers receive text, so the start draws fruits and knows no
  name and no word. Both then learn cross-attention alone; the text encoders stay as they are.

The other layers learned to draw beside features of the graph. Both models share them, so the difference of the two is that of their own
training. Measured is the attribute accuracy (AA) of seen, rare and unseen names, from the same noise. A third row switches the knowledge
of `graph` off, to see whether that stands for a model trained without. One check asks whether the U-Nets learned to read at all: where it
fails, the training was too short for the others to mean anything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, Basis, Expectation, at_least, between

SPLITS = ("seen", "rare", "unseen")
ARMS = ("graph", "none")
OFF = "graph, switched off"
CFG, STEPS, SIDE, PICTURES = 3.0, 20, 128, 3000
TEXT = {"start_steps": 500, "steps": 150, "count": 6000}
"""Steps of the text encoders' common start and of each encoder, and their pictures: those of `bench retrieval`, whose files are shared."""
SETTINGS = {"text_lr": 0.0, "trained": "cross_attention", "batch_size": 16, "lr": 2e-3, "warmup": 30, "ema": 0.99}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench no_graph`."""
    parser.add_argument("--count", type=int, default=96, help="pictures a model and split (96)")
    parser.add_argument("--train-steps", type=int, default=2400, help="training steps of each U-Net (2400, about 10 min of one core)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the start, the weights and the order of the data, the same for both")
    parser.add_argument("--folder", type=Path, default=Path("runs/no_graph"), help="where the U-Nets are trained and kept (runs/no_graph)")
    parser.add_argument("--texts", default="runs/retrieval", help="where the text encoders are trained and kept (runs/retrieval)")
    parser.add_argument("--data", default="", help=f"an image folder to train on; without one {PICTURES} pictures of the Orchard are drawn")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis, gain = Basis(args.count), "that training with the graph adds to training without"
    return {
        "learned": Expectation("seen names: attribute accuracy after training with the graph", at_least(0.6), CHOSEN, basis),
        "unseen": Expectation(f"unseen names: attribute accuracy {gain}", at_least(0.1), CHOSEN, basis),
        "fruit": Expectation(f"unseen names: attribute accuracy of the fruit alone {gain}", at_least(0.15), CHOSEN, basis),
        "rare": Expectation(f"rare names: attribute accuracy {gain}", at_least(0.05), CHOSEN, basis),
        "seen": Expectation(f"seen names: attribute accuracy {gain}", at_least(-0.05), CHOSEN, basis),
        "off": Expectation(
            "unseen names: attribute accuracy of the graph's model with its knowledge switched off, less that of the one trained without",
            between(-0.08, 0.08), CHOSEN, basis,
        ),
    }  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train what is not in the folders, measure, and return the result (see :func:`common.result`)."""
    from ..core.metrics.bootstrap import difference, mean
    from ..core.metrics.orchard import AA_ATTRIBUTES, FRUIT, accuracy_by_picture, evaluation_scenes, prompts_for, sample_pictures
    from ..core.scoring.judge import attribute_accuracy, judge_pictures
    from .shipped import sampling, shipped_judge

    wanted, judge = expectations(args), shipped_judge()
    drawn_by, rows = _models(args)
    accuracy: dict[tuple[str, str], Any] = {}
    fruit: dict[str, Any] = {}
    for split in SPLITS:
        pairs = evaluation_scenes(split, args.count)
        prompts, scenes = prompts_for(pairs), [scene for _, scene in pairs]
        for model, parts in drawn_by.items():
            predicted, _ = judge_pictures(judge, sample_pictures(parts, prompts, sampling(parts.host, CFG, STEPS)))
            accuracy[model, split] = accuracy_by_picture(predicted, scenes, AA_ATTRIBUTES)
            its_fruit = accuracy_by_picture(predicted, scenes, FRUIT)
            if split == "unseen":
                fruit[model] = its_fruit
            shown = attribute_accuracy(predicted, scenes, AA_ATTRIBUTES) | {"fruit AA": float(its_fruit.mean())}
            cells = {key: round(value, 3) for key, value in shown.items()}
            rows.append({"table": "names", "trained with": model, "split": split, "pictures": args.count, **cells})
    checks = [wanted[split].judge(difference(accuracy["graph", split], accuracy["none", split])) for split in ("unseen", "rare", "seen")]
    checks.insert(0, wanted["learned"].judge(mean(accuracy["graph", "seen"])))
    checks.insert(2, wanted["fruit"].judge(difference(fruit["graph"], fruit["none"])))
    checks.append(wanted["off"].judge(difference(accuracy[OFF, "unseen"], accuracy["none", "unseen"])))
    notes = (
        f"AA is the mean over {', '.join(AA_ATTRIBUTES)}; ground and sky stand in every prompt, the fruit's looks in none. Each U-Net "
        f"learned its cross-attention in {args.train_steps} steps of {SETTINGS['batch_size']} pictures, from one start that cannot read. "
        f"{STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}; one seed of training."
    )
    command = f"python -m rapiddraw bench no_graph --count {args.count} --train-steps {args.train_steps}"
    return common.result("no_graph", command, rows, checks, notes=notes)


def _models(args: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what draws, by name, and a row about each training."""
    from dataclasses import replace

    from ..core.bundles.format import read_info
    from ..core.host import current
    from ..core.metrics.orchard import Parts
    from .retrieval import train_arms
    from .shipped import shipped, shipped_graph

    host, drawn_by, rows = current(), {}, []
    options = argparse.Namespace(**TEXT, seed=args.seed, cache=args.texts)
    texts = train_arms(shipped("kg", "kg"), options, ARMS)
    start = cannot_read(args.folder / f"start-{args.seed}-unet.safetensors", args.seed)
    for arm in ARMS:
        text = texts[arm][0]
        unet = _trained(arm, start, text, args)
        model, clip, vae = host.load_bundles(unet, text, shipped("vae", "vae"))
        drawn_by[arm] = Parts(host, model, clip, vae)
        about = read_info(unet, "unet").provenance
        rows.append({"table": "training", "trained with": arm, "steps": about.get("steps"), "seconds": about.get("seconds")})
    plain = drawn_by["graph"]
    drawn_by["graph"] = replace(plain, clip=host.knowledge.attach(plain.clip, shipped_graph(), 1.0))
    return {"graph": drawn_by["graph"], OFF: plain, "none": drawn_by["none"]}, rows


def cannot_read(out: Path, seed: int) -> Path:
    """Write the shipped U-Net to `out`, with cross-attention of new random weights that gives zero; return `out`.

    A file that is there stays where it was made from the same U-Net.
    """
    import torch
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

    from ..core.bundles.format import BundleInfo, read_info, save_bundle
    from ..core.bundles.load import load_bundle
    from ..core.networks import network_of
    from ..core.paths import file_sha256
    from .shipped import shipped

    base = shipped("unet", "unet")
    origin = {"base": base.name, "sha256": file_sha256(base), "seed": seed}
    if out.is_file() and read_info(out, "unet").provenance == origin:
        return out
    bundle = load_bundle(base, "unet")
    network: Any = network_of(UNet2DConditionModel, bundle)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, module in network.named_modules():
            if isinstance(module, Attention) and name.endswith(".attn2"):
                for layer in (module.to_q, module.to_k, module.to_v, module.to_out[0]):
                    layer.reset_parameters()
                for parameter in module.to_out[0].parameters():
                    parameter.zero_()
    info = BundleInfo("unet", bundle.info.config, bundle.info.latent, bundle.info.schedule, provenance=origin)
    out.parent.mkdir(parents=True, exist_ok=True)
    return save_bundle(out, dict(network.state_dict()), info)


def _trained(arm: str, start: Path, text: Path, args: argparse.Namespace) -> Path:
    """Return the U-Net of an arm, from the folder or by training it now; a run that was stopped goes on."""
    from ..core.orchard.dataset import write_dataset
    from ..core.paths import file_sha256
    from ..core.train import make_recipe
    from ..core.train.loop import Intervals, train
    from .shipped import shipped

    data = Path(args.data or args.folder / "train128")
    if not args.data and not (data / "captions.jsonl").is_file():
        write_dataset("train", PICTURES, SIDE, data)
    files = {"base": str(start), "vae": str(shipped("vae", "vae")), "text": str(text)}
    files |= {"graph": str(shipped("kg", "kg"))} if arm == "graph" else {}
    # All that decides the result: what the files hold, in place of where they lie.
    held = {key: file_sha256(path) for key, path in files.items()}
    relevant = {**SETTINGS, **held, "seed": args.seed, "steps": args.train_steps, "data": file_sha256(data / "captions.jsonl")}
    key = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:10]
    out = args.folder / f"{arm}-{key}-unet.safetensors"
    if out.is_file():
        return out
    recipe = make_recipe("unet", {"data": str(data), **files, **SETTINGS, "seed": args.seed})
    return train(recipe, out, args.train_steps, run_dir=args.folder / f"{arm}-{key}", every=Intervals(save=100)).files[0]
