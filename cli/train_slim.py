"""Command `train slim`: a faster U-Net for a checkpoint, or for bundles, to a share of its time. The node Slim UNet does the same work."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .common import say
from .train_domain import PARTS as MODEL
from .train_domain import loader

SLIM = "slim"
PARTS = {**{key: MODEL[key] for key in ("checkpoint", "unet", "text", "vae")}, "graph": ""}
"""Settings beside the method's: the model, as the name of a checkpoint or of three bundles, and a knowledge graph for its texts."""
EXAMPLE = """  python -m rapiddraw train slim --data my_pictures --steps 1000 --out my-slim --set checkpoint=my-checkpoint.safetensors \\
      --set latency=0.6 --set "switches=trimmed feed-forward,swish for gelu\""""


def about(recipe: str = SLIM) -> str:
    """Return the settings with their defaults, and an example."""
    from ..core.operations.slim_model import Slim, SlimDistillation

    shown: dict[str, Any] = dict(PARTS)
    for values in (vars(SlimDistillation()), vars(Slim())):  # the method's own `skip` is the one to set
        shown |= {name: value for name, value in values.items() if name not in ("data", "fingerprint")}
    return "\n".join(["settings of slim, for --set NAME=VALUE:", *(f"  {k}={v!r}" for k, v in shown.items()), "", "example:", EXAMPLE])


def run(args: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Slim, train, and print the report. The U-Net is written to rapiddraw/ of the output folder; a stopped run goes on there."""
    from ..core.errors import InputError
    from ..core.graph.execute import execute
    from ..core.operations.distill import Run
    from ..core.operations.factorize import unet_path
    from ..core.operations.slim_model import Slim, SlimDistillation, slim_model
    from ..core.paths import using_dirs
    from ..core.train import configured
    from ..nodes.registry import registry

    if args.settings:
        say(about())
        return 0
    name = args.out or Path("slim-unet")
    if name.parent != Path():
        raise InputError(f"--out {str(name)!r}: the U-Net goes to rapiddraw/ of the output folder; give a name alone")
    if args.device:
        os.environ["RAPIDDRAW_DEVICE"] = args.device
    data = Path(str(settings.pop("data", ""))).expanduser().absolute() if settings.get("data") else None
    parts = {key: str(settings.pop(key, default)) for key, default in PARTS.items()}
    slim = configured(Slim, SLIM, {key: settings.pop(key) for key in vars(Slim()) if key in settings})
    recipe = configured(SlimDistillation, SLIM, settings)
    steps = 1000 if args.steps is None else args.steps
    graph, last = _graph(parts)
    with using_dirs(input=data.parent if data else None):
        values = execute(graph, registry(), ["1", last]).values
        (model, clip, vae), out = (slot[0] for slot in values["1"]), unet_path(name.name)
        clip = clip if last == "1" else values[last][0][0]
        run = Run(steps, args.save_every, not args.fresh)
        report = slim_model(model, clip, vae, data.name if data else "", name.name, slim, recipe, run)[1]
    say(report)
    say(str(out))
    return 0


def _graph(parts: dict[str, str]) -> tuple[dict[str, Any], str]:
    """Return a graph in API format that loads the model (node 1), and the id of the node that gives its CLIP."""
    graph = {"1": loader(parts)}
    if not parts["graph"]:
        return graph, "1"
    graph["2"] = {"class_type": "RapidDrawKnowledgeGraphLoader", "inputs": {"kg_name": parts["graph"]}}
    applied = {"clip": ["1", 1], "knowledge": ["2", 0], "kg_scale": 1.0, "projection": "none"}
    graph["3"] = {"class_type": "RapidDrawApplyKnowledge", "inputs": applied}
    return graph, "3"
