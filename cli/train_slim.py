"""Command `train slim`: a faster U-Net for a checkpoint, or for bundles, to a share of its time. The node Slim UNet does the same work."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .common import say
from .train_domain import PARTS, model_graph
from .train_options import check_evaluates, run_on_a_model

SLIM = "slim"
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
    from ..core.operations.factorize import unet_path
    from ..core.operations.slim_model import Slim, SlimDistillation, slim_model
    from ..core.paths import using_dirs
    from ..core.train import configured
    from ..nodes.registry import registry

    if args.settings:
        say(about())
        return 0
    check_evaluates(args, SlimDistillation)
    name = args.out or Path("slim-unet")
    if name.parent != Path():
        raise InputError(f"--out {str(name)!r}: the U-Net goes to rapiddraw/ of the output folder; give a name alone")
    if args.device:
        os.environ["RAPIDDRAW_DEVICE"] = args.device
    data = Path(str(settings.pop("data", ""))).expanduser().absolute() if settings.get("data") else None
    parts = {key: str(settings.pop(key, default)) for key, default in PARTS.items()}
    slim = configured(Slim, SLIM, {key: settings.pop(key) for key in vars(Slim()) if key in settings})
    recipe = configured(SlimDistillation, SLIM, settings)
    run, out = run_on_a_model(args), unet_path(name.name)
    for one in (run, slim, recipe):
        one.check()
    run.check_goes_on(run.dir(out.with_name(f"{out.stem}-run")), recipe, known=False)  # before the model is loaded
    graph, links = model_graph(parts)
    with using_dirs(input=data.parent if data else None):
        values = execute(graph, registry(), [number for number, _ in links.values()]).values
        model, clip, vae = (values[number][slot][0] for number, slot in links.values())
        report = slim_model(model, clip, vae, data.name if data else "", name.name, slim, recipe, run)[1]
    say(report)
    say(str(out))
    return 0
