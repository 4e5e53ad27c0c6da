"""Local control (ELR-Diffusion, section 2.4): a picture that follows edges, segments and sketches at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import bundle_choices, content_of

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs

_CONDITIONS = ("edges", "segmentation", "sketch")


class ControlAdapterLoader:
    """A control adapter as a CONTROL_NET."""

    DISPLAY_NAME = "Load Control Adapter"
    CATEGORY = "RapidDraw/control"
    DESCRIPTION = (
        "Loads a control adapter: a small copy of a U-Net's encoder that follows condition maps. It works with the stock node Apply "
        "ControlNet, which gives it one picture, and with Apply Control Adapter, which gives it several at once."
    )
    RETURN_TYPES = ("CONTROL_NET",)
    RETURN_NAMES = ("control_net",)
    OUTPUT_TOOLTIPS = ("The adapter, for the MODEL that it was trained for: dense, low-rank, or with a LoRA.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        which = "What a single picture is taken for when the stock node applies it. Apply Control Adapter names them itself."
        return {
            "required": {
                "control_name": (bundle_choices("control"), {"tooltip": "A bundle of kind control in a weights folder."}),
                "condition": (list(_CONDITIONS), {"default": "edges", "tooltip": which}),
            }
        }

    @classmethod
    def IS_CHANGED(cls, control_name: str | None = None, **_: Any) -> str:
        return content_of(control=control_name)

    def execute(self, control_name: str, condition: str) -> tuple[Any]:
        from ..core.bundles.find import resolve_bundle
        from ..core.host import current

        return (current().control.load(resolve_bundle(control_name, "control"), condition),)


class ControlAdapterApply:
    """Several conditions at once on both prompts."""

    DISPLAY_NAME = "Apply Control Adapter"
    CATEGORY = "RapidDraw/control"
    DESCRIPTION = (
        "Lets edges, segments and a sketch guide the model at once, beside the prompts. Conditions that are not connected are missing, "
        "which the adapter was trained for. May be chained with other ControlNets."
    )
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    OUTPUT_TOOLTIPS = ("The prompt, with control.", "The negative prompt, with the same control.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        share = {"min": 0.0, "max": 1.0, "step": 0.001}
        strength = "How much of the adapter's output is added. 1 is what it was trained with; 0 changes nothing and costs nothing."
        return {
            "required": {
                "positive": ("CONDITIONING", {"tooltip": "The prompt."}),
                "negative": ("CONDITIONING", {"tooltip": "The negative prompt; control acts on it as well."}),
                "control_net": ("CONTROL_NET", {"tooltip": "From Load Control Adapter."}),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01, "tooltip": strength}),
                "start": ("FLOAT", {"default": 0.0, **share, "tooltip": "Part of the sampling where control begins; 0 is the first step."}),
                "end": ("FLOAT", {"default": 1.0, **share, "tooltip": "Part of the sampling where control ends; 1 is the last step."}),
            },
            "optional": {
                "edges": ("IMAGE", {"tooltip": "White edges on black, one pixel wide, as Canny draws them."}),
                "segmentation": ("IMAGE", {"tooltip": "Segments in their colours: sky black, ground blue, fruit red, topper green."}),
                "sketch": ("IMAGE", {"tooltip": "White strokes on black: the main outlines."}),
            },
        }

    def execute(
        self,
        positive: Any,
        negative: Any,
        control_net: Any,
        strength: float,
        start: float,
        end: float,
        edges: Tensor | None = None,
        segmentation: Tensor | None = None,
        sketch: Tensor | None = None,
    ) -> tuple[Any, Any]:
        from ..core.control.apply import apply_adapter

        images = {"edges": edges, "segmentation": segmentation, "sketch": sketch}
        return apply_adapter(positive, negative, control_net, images, strength, start, end)


NODE_CLASS_MAPPINGS = {
    "RapidDrawControlAdapterLoader": ControlAdapterLoader,
    "RapidDrawControlAdapterApply": ControlAdapterApply,
}
