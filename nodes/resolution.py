"""Nodes for many aspect ratios from one model: PanGu-Draw's sizes (Table 7), and the index that names one (section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .works_with import ANY_MODEL

if TYPE_CHECKING:
    from .sockets import Inputs, Latent


class ResolutionBucket:
    """An empty latent of one of PanGu-Draw's sizes."""

    DISPLAY_NAME = "Resolution Bucket"
    CATEGORY = "RapidDraw/conditioning"
    WORKS_WITH = "Models whose latents have an eighth of the picture's sides: SD 1.5, SDXL, Flux, Qwen-Image, Z-Image and others."
    SEARCH_ALIASES = ("aspect ratio", "empty latent", "image size", "portrait", "landscape", "widescreen", "sdxl resolution")
    DESCRIPTION = (
        "Gives an empty latent with one of eleven aspect ratios, from 4:1 to 1:4, at the sizes that PanGu-Draw was trained on (Table 7). "
        "Its structure and texture stage share the index: link it to Set Resolution Index."
    )
    RETURN_TYPES = ("LATENT", "INT", "INT", "INT")
    RETURN_NAMES = ("latent", "width", "height", "index")
    OUTPUT_TOOLTIPS = (
        "The empty latents.",
        "Width in pixels.",
        "Height in pixels.",
        "The row of Table 7, from 0 (widest) to 10 (tallest).",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.data.buckets import SQUARE, aspect_choices

        rows = aspect_choices()
        scale_tip = (
            "Factor of the sides in Table 7. 1 is about a megapixel in the structure stage and suits SDXL; 0.5 suits SD 1.5; 0.125 suits "
            "the shipped model."
        )
        multiple_tip = (
            "Sides become multiples of this number of pixels: 32 suits the shipped model and SDXL, 64 suits SD 1.5. At scale "
            "1, 32 changes no size."
        )
        return {
            "required": {
                "aspect": (
                    rows,
                    {"default": rows[SQUARE], "tooltip": "Width to height, with the size in pixels of PanGu-Draw's structure stage."},
                ),
                "stage": (
                    ["structure", "texture"],
                    {"default": "structure", "tooltip": "Which column of Table 7. The sides of the texture stage are half as long."},
                ),
                "scale": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.005, "round": False, "tooltip": scale_tip}),
                "batch_size": (
                    "INT",
                    {"default": 1, "min": 1, "max": 4096, "tooltip": "How many pictures in the batch, 1 to 4096. More needs more memory."},
                ),
                "multiple": ([8, 16, 32, 64, 128], {"default": 32, "tooltip": multiple_tip}),
            }
        }

    def execute(self, aspect: str, stage: str, scale: float, batch_size: int, multiple: int) -> tuple[Latent, int, int, int]:
        from ..core.data.buckets import bucket_size, empty_latent, index_of_choice

        index = index_of_choice(aspect)
        height, width = bucket_size(index, stage, scale, multiple)
        return empty_latent(height, width, batch_size), width, height, index


class ConditioningSetResolutionIndex:
    """A conditioning that tells the model the index of its resolution."""

    DISPLAY_NAME = "Set Resolution Index"
    CATEGORY = "RapidDraw/conditioning"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("aspect ratio", "size conditioning", "sdxl size", "resolution conditioning")
    DESCRIPTION = (
        "Tells a model that was trained on many aspect ratios which one it draws, so that it composes for that shape. The index's "
        "sinusoidal embedding is put beside the pooled text (PanGu-Draw, section 5). Without this node such a model goes by the latent's "
        "shape; other models ignore the index, and the log says so. "
        "For any model."
    )
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("The conditioning with the index. Give the negative prompt the same index.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        index_tip = "From Resolution Bucket, 0 to 10: 0 is four times as wide as high, 5 is square, 10 is four times as high as wide."
        model_tip = "The model that will draw. Where it takes no index, the log says so at once."
        return {
            "required": {
                "conditioning": ("CONDITIONING", {"tooltip": "An encoded prompt."}),
                "index": ("INT", {"default": 5, "min": 0, "max": 10, "tooltip": index_tip}),
            },
            "optional": {"model": ("MODEL", {"tooltip": model_tip})},
        }

    def execute(self, conditioning: Any, index: int, model: Any = None) -> tuple[Any]:
        import logging

        from ..core.data.buckets import with_index
        from ..core.host import current

        if model is not None and not current().model.takes_resolution_index(model):
            logging.getLogger("rapiddraw").warning("this model takes no resolution index: Set Resolution Index has no effect on it")
        return (with_index(conditioning, index),)


NODE_CLASS_MAPPINGS = {
    "RapidDrawResolutionBucket": ResolutionBucket,
    "RapidDrawConditioningSetResolutionIndex": ConditioningSetResolutionIndex,
}
