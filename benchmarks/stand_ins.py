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
"""Pixels that the side becomes for which the graph's model was trained; all sizes keep their share of it."""
TRAINED = {"v1-5-pruned-emaonly-fp16.safetensors": 512}
"""Pixels for which a checkpoint was trained, where the graph draws larger pictures too."""
SIZES = {"EmptyLatentImage": 8, "EmptyHunyuanLatentVideo": 8, "ImageScale": 1, "RapidDrawESRGANUpscale": 1}
"""Nodes with sizes in pixels, with the number that those must be a multiple of."""
TRAINING: dict[str, dict[str, Any]] = {
    "RapidDrawDistillUNet": {"folder": "", "size": SMALL_SIDE, "lr": 0.001, "steps": 120, "batch_size": 8},
    "RapidDrawDistillFewSteps": {
        "size": SMALL_SIDE, "lr": 0.001, "steps": 60, "batch_size": 8, "teacher_steps": 16, "drawn": 32, "rank": 16, "guidance": 4.0,
    },
    "RapidDrawTrainDomainModel": {"folder": "", "size": SMALL_SIDE, "lr": 0.002, "steps": 60, "batch_size": 2, "rank": 8, "alpha": 8.0},
}  # fmt: skip
"""What training needs with a small model; an empty folder stands for pictures of the Orchard."""
GUIDED = {"RapidDrawLatentSpaceBridgeSampler": {"cfg_a": 4.0}}
"""What draws without guidance in a graph, because its model is distilled (Z-Image Turbo), and needs guidance with a bundle."""


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
    share = SMALL_SIDE / _trained_side(graph)
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
        elif kind in TRAINING:
            inputs.update(TRAINING[kind])
        elif kind in GUIDED and inputs["cfg_a"] == 1:
            inputs.update(GUIDED[kind])
        if kind in SIZES:
            for side in {"width", "height", "long_side"} & inputs.keys():
                inputs[side] = round(inputs[side] * share / SIZES[kind]) * SIZES[kind]
    for node in graph.values():
        for key, value in node["inputs"].items():
            while is_link(value) and value[0] in gone:
                value = gone[value[0]]
            if is_link(value) and (slot := slots.get(value[0])) is not None:
                value = [value[0], slot]
            node["inputs"][key] = value
    return {number: node for number, node in graph.items() if number not in gone}


def _trained_side(graph: Mapping[str, Any]) -> int:
    """Return the pixels for which the model was trained that draws: a checkpoint's own, else those of the largest empty latent."""
    nodes = graph.values()
    known = [TRAINED[name] for node in nodes if (name := node["inputs"].get("ckpt_name")) in TRAINED]
    if known and not any(node["class_type"] == NETWORK for node in nodes):
        return known[0]
    sides = [int(node["inputs"][side]) for node in nodes if node["class_type"].startswith("Empty") for side in ("width", "height")]
    return max(sides, default=SMALL_SIDE)
