"""The trainings of `train` on a user's own model and a folder of pictures: their recipes, their nodes, and what runs them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.operations.distill import Run
    from ..core.operations.domain import DomainTuning
    from ..core.operations.domain_run import Job
    from ..core.text.picture_reader import PictureReader

DOMAIN, PAIR, KRONECKER, CONTROL, TOKENS = "domain", "pair", "domain_kronecker", "domain_control", "domain_image_tokens"
NODES = {
    DOMAIN: "RapidDrawTrainDomainModel",
    PAIR: "RapidDrawTrainTimeDecoupledPair",
    KRONECKER: "RapidDrawTrainKroneckerAdapter",
    CONTROL: "RapidDrawTrainControlAdapter",
    TOKENS: "RapidDrawTrainImageTokens",
}
"""Recipes on a user's model, and the nodes that do the same."""
RECIPES = {
    DOMAIN: "domain:DomainTuning",
    PAIR: "domain_pair:PairTuning",
    KRONECKER: "domain_kronecker:KroneckerTuning",
    CONTROL: "domain_control:ControlTuning",
    TOKENS: "domain_image_tokens:ImageTokensTuning",
}
VISION = "clip_vision"
READERS = {VISION: "", "tower_name": "pretrained-orchard-image.safetensors"}
"""Settings of what reads the pictures for image tokens: the file of a CLIP Vision model, else the name of an image tower."""
EXAMPLES = {
    DOMAIN: """  python -m rapiddraw train domain --data my_pictures --steps 1500 --out my-fruit \\
      --set checkpoint=my-checkpoint.safetensors --set subject="milowex fruit" --set rank=16
  python -m rapiddraw train domain --data my_pictures --out my-fruit --set graph=my-kg.safetensors --set learn_projection=true""",
    PAIR: """  python -m rapiddraw train pair --data my_pictures --steps 750 --out my-pair \\
      --set checkpoint=my-checkpoint.safetensors --set subject="milowex fruit" --set t_struct=500""",
    KRONECKER: """  python -m rapiddraw train domain_kronecker --data my_pictures --steps 1500 --out my-adapter \\
      --set checkpoint=my-checkpoint.safetensors --set subject="milowex fruit\"""",
    CONTROL: """  python -m rapiddraw train domain_control --data my_pictures --steps 5000 --out my-control \\
      --set checkpoint=my-checkpoint.safetensors --set conditions=edges,sketch --set format=lowrank""",
    TOKENS: """  python -m rapiddraw train domain_image_tokens --data my_pictures --steps 5000 --out my-tokens \\
      --set checkpoint=my-checkpoint.safetensors --set clip_vision=clip_vision_l.safetensors""",
}


def recipe_of(name: str) -> type[DomainTuning]:
    """Return the class of the recipe `name`."""
    module, attribute = RECIPES[name].split(":")
    found: type[DomainTuning] = getattr(importlib.import_module(f"..core.operations.{module}", __package__), attribute)
    return found


def reader_of_files(vision: str, tower_name: str) -> PictureReader:
    """Return what reads the pictures: the CLIP Vision model in the file `vision`, else the image tower `tower_name`."""
    from ..core.bundles.find import kind_of, resolve_bundle
    from ..core.host import current
    from ..core.operations.train_image_tokens import reader_of
    from ..core.text.clip_vision import load_clip_vision

    if not vision:
        return reader_of(None, resolve_bundle(tower_name, "image"))
    path = Path(vision).expanduser()
    if path.is_file() and kind_of(path) == "image":
        return reader_of(None, path)
    return reader_of(load_clip_vision(path, current().process.device()), None)


def trained(name: str, given: Any, job: Job, recipe: Any, length: Run, reader: PictureReader | None) -> tuple[str, tuple[Path, ...]]:
    """Train the recipe `name` on `given` (MODEL, CLIP, VAE) and return (a report, the files). `reader` reads pictures for image tokens."""
    if reader is not None:
        from ..core.operations.train_image_tokens import train_image_tokens

        tokens = train_image_tokens(given, reader, job, recipe, length)
        return tokens.report, (tokens.path,)
    if name == CONTROL:
        from ..core.operations.train_control import train_control

        control = train_control(given, job, recipe, length)
        return control.report, (control.path,)
    from ..core.operations.domain_kronecker import train_kronecker
    from ..core.operations.train_domain import train_domain
    from ..core.operations.train_pair import train_pair

    train: Any = {PAIR: train_pair, KRONECKER: train_kronecker}.get(name, train_domain)
    made = train(given, job, recipe, length)
    return made.report, made.paths
