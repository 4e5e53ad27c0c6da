"""Commands `train domain` and `train pair`: LoRAs for a checkpoint, or for bundles, on a folder of pictures."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import say

if TYPE_CHECKING:
    from ..core.operations.domain import DomainTuning

DOMAIN, PAIR = "domain", "pair"
NODES = {DOMAIN: "RapidDrawTrainDomainModel", PAIR: "RapidDrawTrainTimeDecoupledPair"}
"""Recipes on a user's model, and the nodes that do the same."""
PARTS = {
    "checkpoint": "",
    "unet": "orchard-unet.safetensors",
    "text": "orchard-text.safetensors",
    "vae": "orchard-vae.safetensors",
    "prompts": "",
}
"""Settings beside the recipe's: the model, as the name of a checkpoint or of three bundles, and prompts to draw, parted by `|`."""
EXAMPLES = {
    DOMAIN: """  python -m rapiddraw train domain --data my_pictures --steps 1500 --out my-fruit \\
      --set checkpoint=my-checkpoint.safetensors --set subject="milowex fruit" --set rank=16""",
    PAIR: """  python -m rapiddraw train pair --data my_pictures --steps 750 --out my-pair \\
      --set checkpoint=my-checkpoint.safetensors --set subject="milowex fruit" --set t_struct=500""",
}


def recipe_of(name: str) -> type[DomainTuning]:
    """Return the class of the recipe `name`."""
    from ..core.operations.domain import DomainTuning
    from ..core.operations.domain_pair import PairTuning

    return PairTuning if name == PAIR else DomainTuning


def about(name: str) -> str:
    """Return the settings of the recipe `name` with their defaults, and an example."""
    from dataclasses import fields

    recipe = recipe_of(name)()
    lines = [f"settings of {name}, for --set NAME=VALUE:", *(f"  {part}={value!r}" for part, value in PARTS.items())]
    lines += [f"  {one.name}={getattr(recipe, one.name)!r}" for one in fields(recipe) if one.name not in ("data", "fingerprint")]
    return "\n".join([*lines, "", "example:", EXAMPLES[name]])


def run(args: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train, and print the report. LoRAs are written to out/loras, the ready workflow to out/workflows."""
    from ..core.errors import InputError
    from ..core.graph.execute import execute
    from ..core.operations.distill import Run
    from ..core.operations.domain_pair import PairTuning
    from ..core.operations.domain_run import Job
    from ..core.operations.train_domain import train_domain
    from ..core.operations.train_pair import train_pair
    from ..core.paths import using_dirs
    from ..core.train import configured
    from ..nodes import NODE_CLASS_MAPPINGS
    from ..nodes.registry import registry

    if args.settings:
        say(about(args.recipe))
        return 0
    name = args.out or Path(f"my-{args.recipe}")
    if name.parent != Path():
        raise InputError(f"--out {str(name)!r}: the LoRA goes to loras/ of the output folder, where Load LoRA finds it; give a name alone")
    if args.device:
        os.environ["RAPIDDRAW_DEVICE"] = args.device
    data = Path(str(settings.pop("data", ""))).expanduser().absolute() if settings.get("data") else None
    parts = {key: str(settings.pop(key, default)) for key, default in PARTS.items()}
    recipe = configured(recipe_of(args.recipe), args.recipe, settings)
    graph = {"1": loader(parts), "2": {"class_type": NODES[args.recipe], "inputs": _links()}}
    with using_dirs(input=data.parent if data else None):
        loaded = execute({"1": graph["1"]}, registry(), ["1"]).values["1"]
        model, clip, vae = (slot[0] for slot in loaded)
        prompts = "\n".join(parts["prompts"].split("|"))
        job = Job(data.name if data else "", name.name, prompts, graph, "2", NODE_CLASS_MAPPINGS)
        steps = 1000 if args.steps is None else args.steps
        given, length = (model, clip, vae), Run(steps, args.save_every, not args.fresh)
        made: Any = train_pair(given, job, recipe, length) if isinstance(recipe, PairTuning) else train_domain(given, job, recipe, length)
    say(made.report)
    for path in made.paths:
        say(str(path))
    return 0


def loader(parts: dict[str, str]) -> dict[str, Any]:
    """Return the node, in API format, that loads the checkpoint or the bundles of `parts`."""
    if parts["checkpoint"]:
        return {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": parts["checkpoint"]}}
    names = {"unet_name": parts["unet"], "text_name": parts["text"], "vae_name": parts["vae"]}
    return {"class_type": "RapidDrawBundleLoader", "inputs": names}


def _links() -> dict[str, Any]:
    return {name: ["1", slot] for slot, name in enumerate(("model", "clip", "vae"))}
