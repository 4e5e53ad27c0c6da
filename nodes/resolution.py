"""Pictures of many aspect ratios from one model: sizes from PanGu-Draw's Table 7, and the index that tells the model which it draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sockets import Inputs, Latent


class ResolutionBucket:
    """An empty latent of one of the paper's sizes."""

    DISPLAY_NAME = "Resolution Bucket"
    CATEGORY = "RapidDraw/conditioning"
    DESCRIPTION = (
        "An empty latent of one of the eleven aspect ratios that PanGu-Draw was trained on (Table 7), for its structure or its texture "
        "stage. The index is the same in both stages: give it to Set Resolution Index."
    )
    RETURN_TYPES = ("LATENT", "INT", "INT", "INT")
    RETURN_NAMES = ("latent", "width", "height", "index")
    OUTPUT_TOOLTIPS = ("The empty latents.", "Width in pixels.", "Height in pixels.", "The row of the table, 0 (widest) to 10 (highest).")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.data.buckets import SQUARE, aspect_choices

        rows = aspect_choices()
        scale_tip = (
            "Of the paper's size. 1 is about a megapixel in the structure stage, for SDXL's kind; 0.5 suits SD 1.5, 0.125 the Orchard's "
            "model."
        )
        multiple_tip = (
            "Sides are rounded to multiples of it: 32 for the Orchard's model and SDXL, 64 for SD 1.5. At scale 1, 32 changes none."
        )
        return {
            "required": {
                "aspect": (rows, {"default": rows[SQUARE], "tooltip": "Width to height, and the paper's size in the structure stage."}),
                "stage": (
                    ["structure", "texture"],
                    {"default": "structure", "tooltip": "Which of the paper's two lists: the texture model's sizes are half as large."},
                ),
                "scale": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.005, "round": False, "tooltip": scale_tip}),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096, "tooltip": "How many pictures."}),
                "multiple": ([8, 16, 32, 64, 128], {"default": 32, "tooltip": multiple_tip}),
            }
        }

    def execute(self, aspect: str, stage: str, scale: float, batch_size: int, multiple: int) -> tuple[Latent, int, int, int]:
        from ..core.data.buckets import bucket_size, empty_latent, index_of_choice

        index = index_of_choice(aspect)
        height, width = bucket_size(index, stage, scale, multiple)
        return empty_latent(height, width, batch_size), width, height, index


class ConditioningSetResolutionIndex:
    """Tells a model the index of the resolution it draws."""

    DISPLAY_NAME = "Set Resolution Index"
    CATEGORY = "RapidDraw/conditioning"
    DESCRIPTION = (
        "Tells a model that was trained on PanGu-Draw's resolution buckets which one it draws: the index's sinusoidal embedding stands "
        "beside the pooled text. Where nothing is set, such a model goes by the latent's aspect ratio; others ignore it, as the log says."
    )
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("The conditioning with the index. Give the negative prompt the same one.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        index_tip = "From Resolution Bucket: 0 is four times as wide as high, 5 square, 10 four times as high as wide."
        model_tip = "The model that will draw: where it is linked and takes no index, the log says so at once."
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
