"""A node that sets how much of a style a picture shows (PanGu-Draw, section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .works_with import ANY_MODEL

if TYPE_CHECKING:
    from .sockets import Inputs


class StyleGuidance:
    """Guidance towards a styled prompt, with a scale of its own."""

    DISPLAY_NAME = "Style Guidance"
    CATEGORY = "RapidDraw/guidance"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("style strength", "cartoon", "anime", "art style", "style slider", "style transfer", "cfg style")
    DESCRIPTION = (
        "Sets how much of a style a picture shows, beside the guidance scale: each prediction moves from the prompt towards the same "
        "prompt in the words of the style (PanGu-Draw, section 7). Works with any model and sampler. For several styles use several of "
        "these nodes."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The model with the style. Each style costs one more network evaluation in each step in which it acts.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        percent = {"min": 0.0, "max": 1.0, "step": 0.001}
        scale = (
            "How far the style acts. 0: none, and no extra work. Higher shows more of the style; too high gives too much colour and "
            "contrast. Below 0 moves away from the style. PanGu-Draw's released code uses 4."
        )
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "Any diffusion model. It is not changed."}),
                "style": (
                    "CONDITIONING",
                    {"tooltip": "The positive prompt in the words of the style, such as 'a cartoon of a pear on grass'."},
                ),
                "style_scale": ("FLOAT", {"default": 4.0, "min": -100.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": scale}),
                "start_percent": (
                    "FLOAT",
                    {"default": 0.0, **percent, "tooltip": "Where in the sampling the style begins to act, 0 to 1; 0 is the first step."},
                ),
                "end_percent": (
                    "FLOAT",
                    {"default": 1.0, **percent, "tooltip": "Where in the sampling the style ceases to act, 0 to 1; 1 is the last step."},
                ),
            }
        }

    def execute(self, model: Any, style: Any, style_scale: float, start_percent: float, end_percent: float) -> tuple[Any]:
        from ..core.host import current

        return (current().style.guide(model, style, style_scale, start_percent, end_percent),)


NODE_CLASS_MAPPINGS = {"RapidDrawStyleGuidance": StyleGuidance}
