"""Measurements of `bench attention` inside a ComfyUI process: `attention_comfy COMFYUI RESULT SETTINGS`."""

from __future__ import annotations

import importlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.device import timed
from .attention import measure
from .comfy_inside import answer
from .stopwatch import interleave

SIDE, TOKENS, WIDTH = 64, 77, 768  # latents of 512 px, a prompt, its features
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "legacy": False, "context_dim": WIDTH, "num_heads": 8,
    "use_linear_in_transformer": False, "adm_in_channels": None, "use_checkpoint": False, "use_temporal_attention": False,
    "use_temporal_resblock": False,
}  # fmt: skip
"""SD 1.5's U-Net as ComfyUI's detection describes it."""


def measure_inside(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the task of `settings` measures, with ComfyUI's library loaded."""
    if settings["task"] == "graph":
        return whole_unet(settings["repeats"])
    return measure(settings, importlib.import_module("comfy.ldm.modules.attention").optimized_attention)


def whole_unet(repeats: int) -> dict[str, Any]:
    """Measure one sampling step of one evaluation, by ComfyUI's own sampling function, on a U-Net with random weights, patched and not."""
    import torch

    from ..core.attention.chain import report_of
    from ..core.attention.memory import Memory
    from ..core.attention.patch import AttentionPatch
    from ..core.attention.select import Selector
    from ..core.host import current

    management = importlib.import_module("comfy.model_management")
    config = importlib.import_module("comfy.supported_models").SD15(dict(UNET))
    device = management.get_torch_device()
    dtype = management.unet_dtype(model_params=860_000_000, supported_dtypes=config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, config.supported_inference_dtypes))
    network = config.get_model({}, "")
    generator = torch.Generator().manual_seed(0)
    for name, weight in network.diffusion_model.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
    model = importlib.import_module("comfy.model_patcher").ModelPatcher(network, device, management.unet_offload_device())
    noise = torch.randn(1, 4, SIDE, SIDE, generator=generator)
    prompt = [[torch.randn(1, TOKENS, WIDTH, generator=generator), {}]]
    sample = importlib.import_module("comfy.sample").sample
    patch = AttentionPatch(selector=Selector(Memory(Path(os.environ["PYTHONPATH"]) / "attention.json")))
    patched = current().attention.patch_model(model, patch)

    def step(one: Any) -> Any:
        latent = torch.zeros_like(noise)
        return sample(one, noise, 1, 1.0, "euler", "simple", prompt, prompt, latent, disable_pbar=True)

    plain = step(model)
    difference = float((step(patched) - plain).abs().max() / plain.abs().max())
    times = interleave({"default": lambda: step(model), "patched": lambda: step(patched)}, repeats, warmup=0)  # warm by now
    spent: list[float] = []
    _, whole = timed(lambda: step(with_clock(model, spent)))
    return {
        "attention_share": sum(spent) / whole,
        "times": {name: asdict(time) for name, time in times.items()},
        "difference": difference,
        "default": importlib.import_module("comfy.ldm.modules.attention").optimized_attention.__name__,
        "dtype": str(network.get_dtype()),
        "parameters": sum(weight.numel() for weight in network.diffusion_model.parameters()),
        "threads": torch.get_num_threads(),
        "report": report_of(patched),
    }


def with_clock(model: Any, spent: list[float]) -> Any:
    """Return a clone of MODEL that adds the seconds of each attention call to `spent`."""

    def override(func: Any, *args: Any, **kwargs: Any) -> Any:
        out, seconds = timed(lambda: func(*args, **kwargs))
        spent.append(seconds)
        return out

    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = override
    return clone


if __name__ == "__main__":
    answer(measure_inside)
