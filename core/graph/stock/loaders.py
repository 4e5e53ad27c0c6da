"""Stock nodes that load whole checkpoints and change their text encoder."""

from __future__ import annotations

from typing import Any

from ...checkpoint.find import list_checkpoints, resolve_checkpoint
from ...errors import InputError


class CheckpointLoaderSimple:
    DISPLAY_NAME = "Load Checkpoint"
    CATEGORY = "loaders"
    DESCRIPTION = "Loads model, text encoder and VAE from a checkpoint of SD 1.5, SDXL or its refiner: a single file or a diffusers folder."
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    OUTPUT_TOOLTIPS = ("The diffusion model.", "The text encoder.", "The VAE.")
    FUNCTION = "load_checkpoint"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = list_checkpoints() or ["(no checkpoint found: put one into checkpoints/ of a folder that RAPIDDRAW_WEIGHTS names)"]
        return {"required": {"ckpt_name": (names, {"tooltip": "A .safetensors file, or a diffusers folder."})}}

    def load_checkpoint(self, ckpt_name: str) -> tuple[Any, Any, Any]:
        from ...host import current
        from ...host.embedded.checkpoint import load_checkpoint

        return load_checkpoint(resolve_checkpoint(ckpt_name), current().process.device())


class CLIPSetLastLayer:
    DISPLAY_NAME = "CLIP Set Last Layer"
    CATEGORY = "conditioning"
    DESCRIPTION = "Takes the states of an earlier layer of the text encoder as its tokens."
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "set_last_layer"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        layer = {"default": -1, "min": -24, "max": -1, "step": 1, "tooltip": "-1 is the last layer, -2 the one before it."}
        return {"required": {"clip": ("CLIP", {"tooltip": "The text encoder."}), "stop_at_clip_layer": ("INT", layer)}}

    def set_last_layer(self, clip: Any, stop_at_clip_layer: int) -> tuple[Any]:
        if not -24 <= stop_at_clip_layer <= -1:
            raise InputError(f"stop_at_clip_layer must lie between -24 and -1, {stop_at_clip_layer} was given")
        changed = clip.clone()
        changed.clip_layer(stop_at_clip_layer)
        return (changed,)


NODES = [CheckpointLoaderSimple, CLIPSetLastLayer]
