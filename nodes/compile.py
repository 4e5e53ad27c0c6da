"""Nodes that make networks faster where a measurement shows a gain (after Rapid Diffusion, section 3.2.1 and Table 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .works_with import ANY_MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs


class Compile:
    """MODEL, CLIP, VAE and UPSCALE_MODEL in and out: their networks run in the fastest way that was measured."""

    DISPLAY_NAME = "Compile"
    CATEGORY = "RapidDraw/speed"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("faster", "speed up", "torch compile", "torch.compile", "bf16", "channels last", "optimize", "slow")
    DESCRIPTION = (
        "Makes networks faster where this machine can. When they first run, it measures them as they are, in channels-last memory, in "
        "bf16 (where allowed) and compiled by torch.compile, block by block and in one piece. What is not faster, or changes the picture, "
        "is not used. LoRA, ControlNet, other sizes and batches need no new start. For attention use FlashAttention Patch. After Rapid "
        "Diffusion, section 3.2.1. "
        "For any model."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "UPSCALE_MODEL")
    RETURN_NAMES = ("model", "clip", "vae", "upscale_model")
    OUTPUT_TOOLTIPS = (
        "The model, sped up; the model at the input is not changed.",
        "The text encoder, where one is linked.",
        "The VAE, where one is linked.",
        "The upscaler, where one is linked.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        compile_tip = (
            "when it pays: compiles once a network has run for as long as budget, so that compiling cannot cost more than it may save. at "
            "once: compiles at the first evaluation, for long series. never: measures the memory format and bf16 only. Without a compiler "
            "the log warns, and nothing is compiled."
        )
        precision_tip = (
            "keep: the same precision, and the same picture but for rounding. auto: bf16 where it is faster and a block's result stays "
            "within 1%, or a whole network's within 2%. The picture changes a little."
        )
        budget_tip = (
            "Seconds for measuring and compiling each network, 0 to 3600. When they are used up, nothing more is begun. A block takes a "
            "few seconds. A U-Net in one piece gains most and takes one to five minutes on two cores: give 300 for a long series."
        )
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The diffusion model to speed up."}),
                "compile": (["when it pays", "at once", "never"], {"default": "when it pays", "tooltip": compile_tip}),
                "precision": (["keep", "auto"], {"default": "keep", "tooltip": precision_tip}),
                "budget": ("FLOAT", {"default": 30.0, "min": 0.0, "max": 3600.0, "step": 1.0, "tooltip": budget_tip}),
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "A text encoder to speed up as well."}),
                "vae": ("VAE", {"tooltip": "A VAE to speed up as well."}),
                "upscale_model": ("UPSCALE_MODEL", {"tooltip": "An upscaler to speed up as well."}),
            },
        }

    def execute(
        self, model: Any, compile: str, precision: str, budget: float, clip: Any = None, vae: Any = None, upscale_model: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        from ..core.operations.compile import speed_up
        from ..core.speed.plan import Options

        given = {"model": model, "clip": clip, "vae": vae, "upscale_model": upscale_model}
        done = speed_up(given, Options(precision, compile, budget))
        return done["model"], done["clip"], done["vae"], done["upscale_model"]


class CompileReport:
    """A report of what Compile measured and decided, after the picture is drawn."""

    DISPLAY_NAME = "Compile Report"
    CATEGORY = "RapidDraw/speed"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("speed report", "what was compiled", "torch compile", "benchmark")
    DESCRIPTION = (
        "Shows how the networks that went through Compile run now, how much faster their blocks are, and what the measuring cost. Link "
        "the last picture; the report is then written after everything."
    )
    RETURN_TYPES = ("STRING", "IMAGE")
    RETURN_NAMES = ("report", "image")
    OUTPUT_TOOLTIPS = ("One part for each network, with a line for each group of blocks; for Preview as Text.", "The picture, as given.")
    FUNCTION = "execute"
    NOT_IDEMPOTENT = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model from Compile, with or without a LoRA after it."}),
                "image": ("IMAGE", {"tooltip": "The last picture made with the model. The report is written when it is ready."}),
            }
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        return float("nan")  # more is known after every picture

    def execute(self, model: Any, image: Tensor) -> tuple[str, Tensor]:
        from ..core.operations.compile import report_of

        return report_of(model), image


NODE_CLASS_MAPPINGS = {"RapidDrawCompile": Compile, "RapidDrawCompileReport": CompileReport}
