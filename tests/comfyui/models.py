"""MODELs for the probes that are not this pack's, and what a MODEL gives where ComfyUI has loaded it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.supported_models
import torch

CPU = torch.device("cpu")
NARROW: dict[str, Any] = {
    "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0], "context_dim": 32, "num_heads": 2,
}  # fmt: skip
LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def sd15_unet(
    shape: dict[str, Any] = NARROW,
    stored: torch.dtype = torch.float32,
    computes: torch.dtype | None = None,
    seed: int = 0,
    std: float = 0.05,
    devices: tuple[torch.device, torch.device] = (CPU, CPU),
) -> Any:
    """A MODEL of Stable Diffusion 1.5's family, as its loader would make it, with random weights; `devices` to load to and to rest on."""
    config = comfy.supported_models.SD15(
        {
            **shape, "image_size": 32, "in_channels": 4, "out_channels": 4, "transformer_depth_middle": 1, "num_head_channels": -1,
            "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": False, "adm_in_channels": None,
            "use_temporal_attention": False,
        }
    )  # fmt: skip
    config.set_inference_dtype(stored, computes)
    inner = config.get_model({}, "")
    generator = torch.Generator().manual_seed(seed)
    for parameter in inner.diffusion_model.parameters():
        parameter.data.normal_(std=std, generator=generator)
    return comfy.model_patcher.ModelPatcher(inner, *devices)


def output(model: Any, lowvram: bool = False, look: Callable[[Any], None] = lambda network: None) -> torch.Tensor:
    """`LATENT` denoised by a MODEL as ComfyUI would load it; `lowvram` leaves every weight where it is and patches on the way.

    `look` is shown the network while it is loaded.
    """
    management.unload_all_models()
    if lowvram:
        model.patch_model(lowvram_model_memory=1)
    else:
        management.load_models_gpu([model])
    inner = model.model
    tokens = torch.randn(2, 7, inner.model_config.unet_config["context_dim"], generator=torch.Generator().manual_seed(4))
    try:
        return inner.apply_model(LATENT, inner.model_sampling.sigma(torch.tensor([300.0, 700.0])), c_crossattn=tokens).clone()
    finally:
        look(inner)
        if lowvram:
            model.unpatch_model()
