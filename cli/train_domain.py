"""Commands `train domain`, `train pair` and `train domain_...`: LoRAs, adapters and the like for a checkpoint, or for bundles, on a folder
of pictures."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .common import say
from .train_options import run_on_a_model
from .trainers import EXAMPLES, NODES, READERS, TOKENS, VISION, reader_of_files, recipe_of, trained

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


def about(name: str) -> str:
    """Return the settings of the recipe `name` with their defaults, and an example."""
    from dataclasses import fields

    recipe, own = recipe_of(name)(), READERS if name == TOKENS else {}
    lines = [f"settings of {name}, for --set NAME=VALUE:"]
    lines += [f"  {part}={value!r}" for part, value in {**PARTS, **own, PROMPTS: ""}.items()]
    lines += [f"  {one.name}={getattr(recipe, one.name)!r}" for one in fields(recipe) if one.name not in ("data", "fingerprint", "reader")]
    return "\n".join([*lines, "", "example:", EXAMPLES[name]])


def run(args: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train, and print the report. Files are written to out/loras or out/rapiddraw, the ready workflow to out/workflows."""
    from ..core.errors import InputError
    from ..core.graph.execute import execute
    from ..core.operations.domain_run import Job, run_folder
    from ..core.paths import using_dirs
    from ..core.train import configured
    from ..nodes import NODE_CLASS_MAPPINGS
    from ..nodes.registry import registry

    if args.settings:
        say(about(args.recipe))
        return 0
    name = args.out or Path(f"my-{args.recipe}")
    if name.parent != Path():
        raise InputError(f"--out {str(name)!r}: the file goes to the output folder, where its loader finds it; give a name alone")
    if args.device:
        os.environ["RAPIDDRAW_DEVICE"] = args.device
    data = Path(str(settings.pop("data", ""))).expanduser().absolute() if settings.get("data") else None
    prompts = "\n".join(str(settings.pop(PROMPTS, "")).split("|"))
    graph, links = model_graph({key: str(settings.pop(key, default)) for key, default in PARTS.items()})
    reads = {key: str(settings.pop(key, default)) for key, default in READERS.items()} if args.recipe == TOKENS else {}
    recipe, length = configured(recipe_of(args.recipe), args.recipe, settings), run_on_a_model(args)
    length.check()
    recipe.check()
    if not reads:  # before the model is loaded
        length.check_goes_on(length.dir(run_folder(name.name)), recipe, known=False)
    reader = reader_of_files(reads[VISION], reads["tower_name"]) if reads else None
    with using_dirs(input=data.parent if data else None):
        loaded = execute(graph, registry(), [number for number, _ in links.values()]).values
        given: Any = tuple(loaded[number][slot][0] for number, slot in links.values())
        if reader is not None and reader.told["kind"] == VISION:  # so that the ready workflow loads it too
            graph["vision"] = {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": Path(reads[VISION]).name}}
            links = {**links, VISION: ["vision", 0]}
        graph["train"] = {"class_type": NODES[args.recipe], "inputs": links}
        job = Job(data.name if data else "", name.name, prompts, graph, "train", NODE_CLASS_MAPPINGS)
        report, paths = trained(args.recipe, given, job, recipe, length, reader)
    say(report)
    for path in paths:
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
