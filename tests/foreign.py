"""Saved graphs that need a user's own models: the schema of the loaders that the headless host lacks, and small stand-ins for all of them.

`cross_family_bridge` loads Z-Image, SD 1.5 and a ControlNet by stock nodes. Tests cannot have these files. :func:`with_stand_ins` puts
bundles with random weights in their places: a flow model for Z-Image, a diffusion model with a control adapter for SD 1.5. All other nodes
and links stay as they are saved.
"""

from __future__ import annotations

import copy
from typing import Any

from rapiddraw.core.graph.shipped import NEED_MODELS

FLOW = {"unet_name": "flow-unet.safetensors", "text_name": "orchard-text.safetensors", "vae_name": "orchard-vae.safetensors"}
LEADER = {"unet_name": "orchard-unet-64.safetensors", "text_name": "orchard-text.safetensors", "vae_name": "orchard-vae-f4.safetensors"}
_LOADER = "RapidDrawBundleLoader"
_STAND_INS: dict[str, tuple[str, dict[str, Any], int | None]] = {  # by node: what stands in, and the slot of its single output
    "UNETLoader": (_LOADER, FLOW, 0),
    "CLIPLoader": (_LOADER, FLOW, 1),
    "VAELoader": (_LOADER, FLOW, 2),
    "CheckpointLoaderSimple": (_LOADER, LEADER, None),
    "ControlNetLoader": ("RapidDrawControlAdapterLoader", {"control_name": "orchard-control-64.safetensors", "condition": "edges"}, 0),
    "LoadImage": ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 8421504}, 0),
}
_SMALL = {"EmptyLatentImage": {"width": 64, "height": 64}, "BasicScheduler": {"steps": 2}}


def with_stand_ins(name: str, api: dict[str, Any], parts: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """A graph in API format that runs without a user's models; a graph that needs none comes back as it is.

    `parts` are the inputs of :data:`FLOW` and :data:`LEADER` that differ, by `flow` and `leader`.
    """
    if name not in NEED_MODELS:
        return api
    graph, slots = copy.deepcopy(api), {}
    for number, node in graph.items():
        if node["class_type"] in _STAND_INS:
            kind, inputs, slots[number] = _STAND_INS[node["class_type"]]
            side = "flow" if inputs is FLOW else "leader"
            node["class_type"], node["inputs"] = kind, {**inputs, **(parts or {}).get(side, {})} if kind == _LOADER else dict(inputs)
        node["inputs"].update(_SMALL.get(node["class_type"], {}))
    for node in graph.values():
        for key, value in node["inputs"].items():
            if isinstance(value, list) and slots.get(value[0]) is not None:
                node["inputs"][key] = [value[0], slots[value[0]]]
    return graph


def _node(returns: tuple[str, ...], **inputs: Any) -> type:
    required = {key: (value if isinstance(value, list) else value, {}) for key, value in inputs.items()}
    given = {
        "INPUT_TYPES": classmethod(lambda cls: {"required": required}),
        "RETURN_TYPES": returns,
        "FUNCTION": "execute",
        "CATEGORY": "loaders",
    }
    return type("Foreign", (), given)


LOADERS: dict[str, type] = {
    "UNETLoader": _node(("MODEL",), unet_name=["z_image_turbo_bf16.safetensors"], weight_dtype=["default"]),
    "CLIPLoader": _node(("CLIP",), clip_name=["qwen_3_4b.safetensors"], type=["lumina2"], device=["default"]),
    "VAELoader": _node(("VAE",), vae_name=["ae.safetensors"]),
    "CheckpointLoaderSimple": _node(("MODEL", "CLIP", "VAE"), ckpt_name=["v1-5-pruned-emaonly-fp16.safetensors"]),
    "ControlNetLoader": _node(("CONTROL_NET",), control_net_name=["control_v11p_sd15_canny_fp16.safetensors"]),
    "LoadImage": _node(("IMAGE", "MASK"), image=["example.png"]),
}
"""Loaders as ComfyUI shows them where a user has the models: for reading and checking graphs, not for running them."""
