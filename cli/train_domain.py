"""Commands `train domain` and `train pair`: LoRAs for a checkpoint, or for bundles, on a folder of pictures."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import say
from .train_options import run_on_a_model

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
    "graph": "",
    "projection": "none",
    "kg_scale": "1.0",
}
"""Settings of the model: a checkpoint's name or those of three bundles; a knowledge graph for its texts, with projection and strength."""
PROMPTS = "prompts"
"""The setting of prompts to draw, parted by `|`."""
EXAMPLES = {
    DOMAIN: """  python -m rapiddraw train domain --data my_pictures --steps 1500 --out my-fruit \\
      --set checkpoint=my-checkpoint.safetensors --set subject="milowex fruit" --set rank=16
  python -m rapiddraw train domain --data my_pictures --out my-fruit --set graph=my-kg.safetensors --set learn_projection=true""",
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
    lines = [f"settings of {name}, for --set NAME=VALUE:", *(f"  {part}={value!r}" for part, value in {**PARTS, PROMPTS: ""}.items())]
    lines += [f"  {one.name}={getattr(recipe, one.name)!r}" for one in fields(recipe) if one.name not in ("data", "fingerprint")]
    return "\n".join([*lines, "", "example:", EXAMPLES[name]])


def run(args: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train, and print the report. LoRAs are written to out/loras, the ready workflow to out/workflows."""
    from ..core.errors import InputError
    from ..core.graph.execute import execute
    from ..core.operations.domain_pair import PairTuning
    from ..core.operations.domain_run import Job, run_folder
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
    prompts = "\n".join(str(settings.pop(PROMPTS, "")).split("|"))
    graph, links = model_graph({key: str(settings.pop(key, default)) for key, default in PARTS.items()})
    recipe, length = configured(recipe_of(args.recipe), args.recipe, settings), run_on_a_model(args)
    length.check()
    recipe.check()
    length.check_goes_on(length.dir(run_folder(name.name)), recipe, known=False)  # before the model is loaded
    with using_dirs(input=data.parent if data else None):
        loaded = execute(graph, registry(), [number for number, _ in links.values()]).values
        given: Any = tuple(loaded[number][slot][0] for number, slot in links.values())
        graph["train"] = {"class_type": NODES[args.recipe], "inputs": links}
        job = Job(data.name if data else "", name.name, prompts, graph, "train", NODE_CLASS_MAPPINGS)
        made: Any = train_pair(given, job, recipe, length) if isinstance(recipe, PairTuning) else train_domain(given, job, recipe, length)
    say(made.report)
    for path in made.paths:
        say(str(path))
    return 0


def model_graph(parts: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (a graph in API format that loads the model of `parts`, the links to its MODEL, CLIP and VAE).

    Raises :class:`InputError` for a strength that is no number, and for a projection without a graph."""
    from ..core.checks import real_number
    from ..core.errors import InputError
    from ..core.knowledge.choices import NO_PROJECTION

    if parts["checkpoint"]:
        first = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": parts["checkpoint"]}}
    else:
        names = {"unet_name": parts["unet"], "text_name": parts["text"], "vae_name": parts["vae"]}
        first = {"class_type": "RapidDrawBundleLoader", "inputs": names}
    graph, links = {"1": first}, {name: ["1", slot] for slot, name in enumerate(("model", "clip", "vae"))}
    if not parts["graph"]:
        if parts["projection"] != NO_PROJECTION:
            raise InputError(f"projection={parts['projection']!r} tells how the text encoder reads a graph; name the graph too, in graph")
        return graph, links
    try:
        scale = float(parts["kg_scale"])
    except ValueError as error:
        raise InputError(f"kg_scale={parts['kg_scale']!r}: expected a number, such as 1.0") from error
    given = {"knowledge": ["2", 0], "kg_scale": real_number("kg_scale", scale, 0.0, 2.0), "projection": parts["projection"]}
    graph["2"] = {"class_type": "RapidDrawKnowledgeGraphLoader", "inputs": {"kg_name": parts["graph"]}}
    graph["3"] = {"class_type": "RapidDrawApplyKnowledge", "inputs": {"clip": links["clip"], **given}}
    return graph, {**links, "clip": ["3", 0]}
