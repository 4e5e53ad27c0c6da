"""How much of a style a picture shows (PanGu-Draw, section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sockets import Inputs


class StyleGuidance:
    """Guidance towards a styled prompt, with a scale of its own."""

    DISPLAY_NAME = "Style Guidance"
    CATEGORY = "RapidDraw/guidance"
    DESCRIPTION = (
        "Moves each prediction from the prompt towards the same prompt with a style (PanGu-Draw): a dial for how much of the style is "
        "shown, beside the guidance scale. Works with any model and sampler; chain several for several styles."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The model with the style. Each style costs one more evaluation of the network a step while it acts.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        percent = {"min": 0.0, "max": 1.0, "step": 0.001}
        scale = (
            "How far to move: 0 is plain guidance, without extra work; higher shows more of the style, and in the end too much colour and "
            "contrast. The paper's release uses 4. Less than 0 moves away from the style."
        )
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "Any diffusion model; it is not changed."}),
                "style": (
                    "CONDITIONING",
                    {"tooltip": "The positive prompt in words of the style, such as 'a cartoon of a pear on grass'."},
                ),
                "style_scale": ("FLOAT", {"default": 4.0, "min": -100.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": scale}),
                "start_percent": (
                    "FLOAT",
                    {"default": 0.0, **percent, "tooltip": "Where in the sampling the style begins to act, 0 is its start."},
                ),
                "end_percent": (
                    "FLOAT",
                    {"default": 1.0, **percent, "tooltip": "Where in the sampling the style ceases to act, 1 is its end."},
                ),
            }
        }

    def execute(self, model: Any, style: Any, style_scale: float, start_percent: float, end_percent: float) -> tuple[Any]:
        from ..core.host import current

        return (current().style_guidance(model, style, style_scale, start_percent, end_percent),)


NODE_CLASS_MAPPINGS = {"RapidDrawStyleGuidance": StyleGuidance}
