"""Stock nodes around text, latents and the VAE, and PreviewAny."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from ...errors import InputError

MAX_RESOLUTION = 16384


class CLIPTextEncode:
    DISPLAY_NAME = "CLIP Text Encode (Prompt)"
    CATEGORY = "conditioning"
    DESCRIPTION = "Encodes a prompt into the conditioning that guides the model."
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("The encoded prompt.",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "text": ("STRING", {"multiline": True, "dynamicPrompts": True, "tooltip": "The prompt. (word:1.2) weighs a word."}),
                "clip": ("CLIP", {"tooltip": "The text encoder that belongs to the model."}),
            }
        }

    def encode(self, clip: Any, text: str) -> tuple[Any]:
        return (clip.encode_from_tokens_scheduled(clip.tokenize(text)),)


class EmptyLatentImage:
    DISPLAY_NAME = "Empty Latent Image"
    CATEGORY = "latent"
    DESCRIPTION = "A batch of empty latents to be denoised."
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The empty latents.",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = {"default": 512, "min": 16, "max": MAX_RESOLUTION, "step": 8}
        return {
            "required": {
                "width": ("INT", {**side, "tooltip": "Width in pixels."}),
                "height": ("INT", {**side, "tooltip": "Height in pixels."}),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096, "tooltip": "How many pictures."}),
            }
        }

    def generate(self, width: int, height: int, batch_size: int = 1) -> tuple[dict[str, Any]]:
        import torch

        for name, value, low, high in (
            ("width", width, 16, MAX_RESOLUTION),
            ("height", height, 16, MAX_RESOLUTION),
            ("batch_size", batch_size, 1, 4096),
        ):
            if not low <= value <= high:
                raise InputError(f"{name} must lie between {low} and {high}, {value} was given")
        return ({"samples": torch.zeros(batch_size, 4, height // 8, width // 8), "downscale_ratio_spacial": 8},)


class SetLatentNoiseMask:
    DISPLAY_NAME = "Set Latent Noise Mask"
    CATEGORY = "latent/inpaint"
    DESCRIPTION = "Limits sampling to the part of the picture where the mask is 1."
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "set_mask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "The latent to redraw in part."}),
                "mask": ("MASK", {"tooltip": "1 where the picture is redrawn, 0 where it is kept."}),
            }
        }

    def set_mask(self, samples: dict[str, Any], mask: Any) -> tuple[dict[str, Any]]:
        return ({**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])},)


class LatentUpscaleBy:
    DISPLAY_NAME = "Upscale Latent By"
    CATEGORY = "latent"
    DESCRIPTION = "Resamples a latent as if it were a picture. What noise is in it is resampled too, and is no white noise any more."
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        factor = {"default": 1.5, "min": 0.01, "max": 8.0, "step": 0.01, "tooltip": "How many times larger, along each side."}
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "The latent to resample."}),
                "upscale_method": (["nearest-exact", "bilinear", "area", "bicubic"], {"tooltip": "How new cells are made."}),
                "scale_by": ("FLOAT", factor),
            }
        }

    def upscale(self, samples: dict[str, Any], upscale_method: str, scale_by: float) -> tuple[dict[str, Any]]:
        from torch.nn import functional

        if not 0.01 <= scale_by <= 8 or upscale_method not in ("nearest-exact", "bilinear", "area", "bicubic"):
            raise InputError(f"cannot upscale by {scale_by} with {upscale_method!r}: 0.01 to 8, nearest-exact, bilinear, area or bicubic")
        height, width = (round(side * scale_by) for side in samples["samples"].shape[-2:])
        return ({**samples, "samples": functional.interpolate(samples["samples"], size=(height, width), mode=upscale_method)},)


class VAEDecode:
    DISPLAY_NAME = "VAE Decode"
    CATEGORY = "latent"
    DESCRIPTION = "Decodes latents into pictures."
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The pictures.",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "The latents to decode."}),
                "vae": ("VAE", {"tooltip": "The VAE that belongs to the model."}),
            }
        }

    def decode(self, vae: Any, samples: dict[str, Any]) -> tuple[Any]:
        return (vae.decode(samples["samples"]),)


class VAEEncode:
    DISPLAY_NAME = "VAE Encode"
    CATEGORY = "latent"
    DESCRIPTION = "Encodes pictures into latents."
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pixels": ("IMAGE", {"tooltip": "The pictures to encode."}),
                "vae": ("VAE", {"tooltip": "The VAE that belongs to the model."}),
            }
        }

    def encode(self, vae: Any, pixels: Any) -> tuple[dict[str, Any]]:
        return ({"samples": vae.encode(pixels)},)


class PreviewAny:
    DISPLAY_NAME = "Preview as Text"
    CATEGORY = "utils"
    DESCRIPTION = "Shows any value as text."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    OUTPUT_NODE = True
    FUNCTION = "main"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"source": ("*", {"tooltip": "The value to show."})}}

    def main(self, source: Any = None) -> dict[str, Any]:
        if isinstance(source, str):
            text = source
        elif source is None or isinstance(source, int | float | bool):
            text = str(source)
        else:
            try:
                text = json.dumps(source, indent=4)
            except (TypeError, ValueError):
                text = str(source)
        return {"ui": {"text": (text,)}}


class ControlNetApplyAdvanced:
    DISPLAY_NAME = "Apply ControlNet"
    CATEGORY = "conditioning/controlnet"
    DESCRIPTION = "Lets a picture guide the model beside the prompts."
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    FUNCTION = "apply_controlnet"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        part = {"min": 0.0, "max": 1.0, "step": 0.001}
        return {
            "required": {
                "positive": ("CONDITIONING", {"tooltip": "The prompt."}),
                "negative": ("CONDITIONING", {"tooltip": "What the picture is guided away from."}),
                "control_net": ("CONTROL_NET", {"tooltip": "The control model."}),
                "image": ("IMAGE", {"tooltip": "The picture to follow: edges, segments, a sketch, as the control model wants it."}),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01, "tooltip": "0 changes nothing."}),
                "start_percent": ("FLOAT", {"default": 0.0, **part, "tooltip": "Part of the sampling where control begins."}),
                "end_percent": ("FLOAT", {"default": 1.0, **part, "tooltip": "Part of the sampling where control ends."}),
            },
            "optional": {"vae": ("VAE", {"tooltip": "For control models that want latents; ours do not."})},
        }

    def apply_controlnet(
        self,
        positive: Any,
        negative: Any,
        control_net: Any,
        image: Any,
        strength: float,
        start_percent: float,
        end_percent: float,
        vae: Any = None,
    ) -> tuple[Any, Any]:
        from ...control.apply import attach_control

        first, second = attach_control((positive, negative), control_net, image.movedim(-1, 1), strength, start_percent, end_percent)
        return first, second


NODES = [ControlNetApplyAdvanced, CLIPTextEncode, EmptyLatentImage, SetLatentNoiseMask, LatentUpscaleBy, VAEDecode, VAEEncode, PreviewAny]
