"""Nodes for control by edges, segments and sketches at once (ELR-Diffusion, section 2.4)."""

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
    WORKS_WITH = "Adapters of this pack, for U-Nets such as SD 1.5 and SD 2. For other ControlNets use ComfyUI's own loader."
    SEARCH_ALIASES = ("controlnet", "load controlnet", "t2i adapter", "uni-controlnet", "control model")
    DESCRIPTION = (
        "Makes pictures follow edges, segments or a sketch. A control adapter is a small copy of a U-Net's encoder (ELR-Diffusion, "
        "section 2.4). The stock Apply ControlNet gives it one picture, Apply Control Adapter gives it several at once."
    )
    RETURN_TYPES = ("CONTROL_NET",)
    RETURN_NAMES = ("control_net",)
    OUTPUT_TOOLTIPS = ("The adapter, for the MODEL that it was trained for: dense, low-rank, or with a LoRA.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        which = "What a picture from the stock Apply ControlNet is. Apply Control Adapter names its pictures itself."
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
    WORKS_WITH = "U-Nets such as SD 1.5 and SD 2, with an adapter that was trained for the model. Others are refused."
    SEARCH_ALIASES = (
        "controlnet", "apply controlnet", "multi controlnet", "t2i adapter", "uni-controlnet", "edges", "sketch to image",
        "segmentation to image", "scribble",
    )  # fmt: skip
    DESCRIPTION = (
        "Makes a picture follow edges, segments and a sketch at once, beside the prompt (ELR-Diffusion, section 2.4). Any of them may be "
        "missing; the adapter was trained for that. Other ControlNets may be chained. "
        "For U-Nets only."
    )
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    OUTPUT_TOOLTIPS = ("The prompt, with control.", "The negative prompt, with the same control.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        share = {"min": 0.0, "max": 1.0, "step": 0.001}
        strength = (
            "How strongly the adapter acts, 0 to 10. 0: not at all, at no cost. 1: as trained. Higher follows the pictures more closely."
        )
        return {
            "required": {
                "positive": ("CONDITIONING", {"tooltip": "The prompt."}),
                "negative": ("CONDITIONING", {"tooltip": "The negative prompt. Control acts on it too."}),
                "control_net": ("CONTROL_NET", {"tooltip": "From Load Control Adapter."}),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01, "tooltip": strength}),
                "start": (
                    "FLOAT",
                    {"default": 0.0, **share, "tooltip": "Where in the sampling control begins, 0 to 1; 0 is the first step."},
                ),
                "end": ("FLOAT", {"default": 1.0, **share, "tooltip": "Where in the sampling control ends, 0 to 1; 1 is the last step."}),
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
