"""Stand-ins for the models that a shipped graph names and the pack does not bring: bundles, so that the graph runs without a user's files.

The shipped bundles are as small as a toy, so pictures become smaller too. All nodes that do the work stay as they are saved.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ..core.graph.inputs import is_link
from ..core.graph.shipped import NEED_MODELS

Parts = dict[str, str]
LOADER, CHECKPOINT, NETWORK = "RapidDrawBundleLoader", "CheckpointLoaderSimple", "UNETLoader"
MAIN: Parts = {"unet_name": "orchard-unet.safetensors", "text_name": "orchard-text.safetensors", "vae_name": "orchard-vae.safetensors"}
LEADER: Parts = {
    "unet_name": "orchard-unet-64.safetensors",
    "text_name": "orchard-text.safetensors",
    "vae_name": "orchard-vae-f4.safetensors",
}
"""What stands for a checkpoint that leads a diffusion model of another family: it has another latent space."""
SINGLE = {NETWORK: 0, "CLIPLoader": 1, "VAELoader": 2}
"""Loaders of one part, with the place of that part among the outputs of a bundle's loader."""
OTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "ControlNetLoader": ("RapidDrawControlAdapterLoader", {"control_name": "orchard-control-64.safetensors", "condition": "edges"}),
    "UpscaleModelLoader": ("RapidDrawESRGANLoader", {"model_name": "orchard-esrgan-x4.safetensors"}),
}
LEFT_OUT = {"ModelSamplingSD3": "model"}
"""Nodes that the headless host does not have, with the input that goes on in their place."""
SMALL_SIDE = 128
"""Pixels that the longest side of an empty latent becomes; others keep their share of it."""
TRAINING = {"folder": "", "size": SMALL_SIDE, "lr": 0.001, "steps": 120, "batch_size": 8}


def with_stand_ins(name: str, api: Mapping[str, Any], parts: Mapping[str, Parts] | None = None) -> dict[str, Any]:
    """Return the shipped graph `name`, given in API format, with stand-ins; one that needs none comes back as it is.

    `parts` are the inputs of :data:`MAIN` and :data:`LEADER` that differ, by `main`, `flow` (a model from a file of its own) and `leader`.
    """
    if name not in NEED_MODELS:
        return dict(api)
    graph = {number: copy.deepcopy(node) for number, node in api.items()}
    classes = {node["class_type"] for node in graph.values()}
    given = parts or {}
    bundles = {
        CHECKPOINT: {**LEADER, **given.get("leader", {})} if NETWORK in classes else {**MAIN, **given.get("main", {})},
        **{loader: {**MAIN, **given.get("flow", {})} for loader in SINGLE},
    }
    longest = max((max(_sides(node)) for node in graph.values()), default=SMALL_SIDE)
    slots, gone = {}, {}
    for number, node in graph.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind in bundles:
            node["class_type"], node["inputs"] = LOADER, dict(bundles[kind])
            slots[number] = SINGLE.get(kind)
        elif kind in OTHER:
            node["class_type"], node["inputs"] = OTHER[kind][0], dict(OTHER[kind][1])
        elif kind in LEFT_OUT:
            gone[number] = inputs[LEFT_OUT[kind]]
        elif kind == "EmptyHunyuanLatentVideo":
            node["class_type"] = "EmptyLatentImage"
            inputs.pop("length")
        elif kind == "SaveAnimatedWEBP":
            node["class_type"] = "RapidDrawSaveMarkedImage"
            node["inputs"] = {key: inputs[key] for key in ("images", "filename_prefix")}
        elif kind == "RapidDrawDistillUNet":
            inputs.update(TRAINING)
        if any(_sides(node)):
            for side in ("width", "height"):
                node["inputs"][side] = round(node["inputs"][side] * SMALL_SIDE / longest / 8) * 8
    for node in graph.values():
        for key, value in node["inputs"].items():
            while is_link(value) and value[0] in gone:
                value = gone[value[0]]
            if is_link(value) and (slot := slots.get(value[0])) is not None:
                value = [value[0], slot]
            node["inputs"][key] = value
    return {number: node for number, node in graph.items() if number not in gone}


def _sides(node: Mapping[str, Any]) -> tuple[int, int]:
    """Return width and height of a node that makes an empty latent; zeros for another."""
    inputs = node["inputs"]
    if node["class_type"] not in ("EmptyLatentImage", "EmptyHunyuanLatentVideo"):
        return 0, 0
    return int(inputs["width"]), int(inputs["height"])
