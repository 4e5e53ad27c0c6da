"""Saved graphs that need a user's own models: the schema of ComfyUI's nodes that the headless host lacks, and small stand-ins.

The stand-ins of :mod:`rapiddraw.benchmarks.stand_ins` are bundles; tests have bundles with random weights under their names. A picture
that a graph loads is a grey one here.
"""

from __future__ import annotations

from typing import Any

from rapiddraw.benchmarks import stand_ins
from rapiddraw.core.graph.shipped import NEED_MODELS

FLOW = {"flow": {"unet_name": "flow-unet.safetensors"}}
GREY = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 8421504}}
_SMALL = {
    "EmptyLatentImage": {"width": 64, "height": 64}, "BasicScheduler": {"steps": 2},
    "RapidDrawDistillUNet": {"steps": 1, "batch_size": 1, "size": 32},
    "RapidDrawTrainDomainModel": {"steps": 1, "batch_size": 1, "size": 32},
    "RapidDrawTrainTimeDecoupledPair": {"steps": 1, "batch_size": 1, "size": 32},
    "RapidDrawTrainControlAdapter": {"steps": 1, "batch_size": 1, "size": 32},
    "RapidDrawTrainKroneckerAdapter": {"steps": 1, "batch_size": 1, "size": 32},
    "RapidDrawDistillFewSteps": {"steps": 1, "batch_size": 1, "size": 32, "drawn": 1, "teacher_steps": 4},
}  # fmt: skip


def with_stand_ins(name: str, api: dict[str, Any], parts: dict[str, dict[str, str]] | None = None) -> dict[str, Any]:
    """A graph in API format that runs without a user's models, small; a graph that needs none comes back as it is."""
    if name not in NEED_MODELS:
        return api
    graph = stand_ins.with_stand_ins(name, api, parts or FLOW)
    for number, node in graph.items():
        if node["class_type"] == "LoadImage":
            graph[number] = {**node, **GREY}
        node["inputs"].update(_SMALL.get(node["class_type"], {}))
    return graph


def _node(returns: tuple[str, ...], is_output: bool = False, **inputs: Any) -> type:
    given = {
        "INPUT_TYPES": classmethod(
            lambda cls: {"required": {key: value if isinstance(value, tuple) else (value, {}) for key, value in inputs.items()}}
        ),
        "RETURN_TYPES": returns,
        "FUNCTION": "execute",
        "CATEGORY": "loaders",
        "OUTPUT_NODE": is_output,
    }
    return type("Foreign", (), given)


def _number(kind: str, default: float) -> tuple[str, dict[str, Any]]:
    return kind, {"default": default}


LOADERS: dict[str, type] = {
    "UNETLoader": _node(
        ("MODEL",),
        unet_name=[
            "z_image_turbo_bf16.safetensors", "qwen_image_fp8_e4m3fn.safetensors", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
            "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors",
        ],
        weight_dtype=["default"],
    ),
    "CLIPLoader": _node(
        ("CLIP",),
        clip_name=["qwen_3_4b.safetensors", "qwen_2.5_vl_7b_fp8_scaled.safetensors", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"],
        type=["lumina2", "qwen_image", "wan"],
        device=["default"],
    ),
    "VAELoader": _node(("VAE",), vae_name=["ae.safetensors", "qwen_image_vae.safetensors", "wan_2.1_vae.safetensors"]),
    "CheckpointLoaderSimple": _node(
        ("MODEL", "CLIP", "VAE"),
        ckpt_name=["v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors"],
    ),
    "ControlNetLoader": _node(("CONTROL_NET",), control_net_name=["control_v11p_sd15_canny_fp16.safetensors"]),
    "UpscaleModelLoader": _node(("UPSCALE_MODEL",), model_name=["RealESRGAN_x4plus.safetensors"]),
    "LoadImage": _node(("IMAGE", "MASK"), image=(["example.png"], {"image_upload": True})),
    "ModelSamplingSD3": _node(("MODEL",), model="MODEL", shift=_number("FLOAT", 3.0)),
    "EmptyHunyuanLatentVideo": _node(
        ("LATENT",), width=_number("INT", 848), height=_number("INT", 480), length=_number("INT", 25), batch_size=_number("INT", 1)
    ),
    "SaveAnimatedWEBP": _node(
        (), True, images="IMAGE", filename_prefix=("STRING", {"default": "ComfyUI"}), fps=_number("FLOAT", 6.0),
        lossless=("BOOLEAN", {"default": True}), quality=_number("INT", 80), method=["default", "fastest", "slowest"],
    ),
}  # fmt: skip
"""Nodes as ComfyUI shows them where a user has the models: for reading and checking graphs, not for running them."""
