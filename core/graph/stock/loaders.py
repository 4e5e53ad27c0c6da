"""Stock nodes that load whole checkpoints and change their text encoder."""

from __future__ import annotations

from typing import Any

from ...checkpoint.find import list_checkpoints, resolve_checkpoint
from ...checkpoint.loras import list_loras, resolve_lora
from ...errors import BundleError, InputError
from ...paths import file_sha256

_STRENGTH = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}


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


class LoraLoader:
    DISPLAY_NAME = "Load LoRA (Model and CLIP)"
    CATEGORY = "loaders"
    DESCRIPTION = "Adds a LoRA to a model and a text encoder. Several can follow each other."
    RETURN_TYPES: tuple[str, ...] = ("MODEL", "CLIP")
    OUTPUT_TOOLTIPS: tuple[str, ...] = ("The changed diffusion model.", "The changed text encoder.")
    FUNCTION = "load_lora"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The diffusion model."}),
                "clip": ("CLIP", {"tooltip": "The text encoder."}),
                "lora_name": (_loras(), {"tooltip": "The LoRA's file."}),
                "strength_model": ("FLOAT", {**_STRENGTH, "tooltip": "How strongly the diffusion model is changed. May be negative."}),
                "strength_clip": ("FLOAT", {**_STRENGTH, "tooltip": "How strongly the text encoder is changed. May be negative."}),
            }
        }

    @classmethod
    def IS_CHANGED(cls, lora_name: str = "", **_: Any) -> str:
        try:
            return file_sha256(resolve_lora(lora_name))
        except (InputError, BundleError):
            return ""

    def load_lora(self, model: Any, clip: Any, lora_name: str, strength_model: float, strength_clip: float) -> tuple[Any, ...]:
        from ...host import current

        if strength_model == 0 and strength_clip == 0:
            return (model, clip)
        return current().surgery.add_lora(model, clip, resolve_lora(lora_name), strength_model, strength_clip)


class LoraLoaderModelOnly(LoraLoader):
    DISPLAY_NAME = "Load LoRA"
    DESCRIPTION = "Adds a LoRA to a model. Several can follow each other."
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The changed diffusion model.",)
    FUNCTION = "load_lora_model_only"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        inputs = super().INPUT_TYPES()["required"]
        return {"required": {name: inputs[name] for name in ("model", "lora_name", "strength_model")}}

    def load_lora_model_only(self, model: Any, lora_name: str, strength_model: float) -> tuple[Any]:
        return (self.load_lora(model, None, lora_name, strength_model, 0.0)[0],)


def _loras() -> list[str]:
    return list_loras() or ["(no LoRA found: put one into loras/ of a folder that RAPIDDRAW_WEIGHTS names)"]


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


NODES = [CheckpointLoaderSimple, LoraLoader, LoraLoaderModelOnly, CLIPSetLastLayer]
