"""A node that measures where the time of a picture goes (Rapid Diffusion, Figure 2 and Table 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .works_with import ANY_MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs


_PARTS_TIP = (
    "A table as in SnapFusion's slides: input, parameters, multiply-adds, latency, steps and total of each part, the student below the "
    "whole model, and where the bottleneck is."
)


def _count(default: int, low: int, high: int, tooltip: str, step: int = 1) -> tuple[str, dict[str, Any]]:
    return ("INT", {"default": default, "min": low, "max": high, "step": step, "tooltip": tooltip})


class ProfilePipeline:
    """The time of each part of drawing, measured over several runs."""

    DISPLAY_NAME = "Profile Pipeline"
    CATEGORY = "RapidDraw/profile"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("benchmark", "timing", "slow", "how long", "speed test", "profiler", "performance")
    DESCRIPTION = (
        "Shows where the time of a picture goes, so that you know what is worth speeding up. It draws one picture several times and "
        "measures the text encoder, the U-Net, the attention inside it, the decoder and the upscaler. In Rapid Diffusion's Table 3 the "
        "U-Net takes most of the time. "
        "For any model."
    )
    RETURN_TYPES = ("STRING", "IMAGE", "STRING", "STRING")
    RETURN_NAMES = ("table", "chart", "json", "parts_table")
    OUTPUT_TOOLTIPS = (
        "Medians and interquartile ranges in milliseconds, as a table.",
        "The same as a bar chart.",
        "The same as JSON.",
        _PARTS_TIP,
    )
    FUNCTION = "execute"
    NOT_IDEMPOTENT = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The diffusion model to measure."}),
                "clip": ("CLIP", {"tooltip": "The text encoder to measure."}),
                "vae": ("VAE", {"tooltip": "The VAE whose decoder is measured."}),
                "width": _count(128, 16, 4096, "Width of the picture in pixels, before upscaling. Larger takes longer.", 8),
                "height": _count(128, 16, 4096, "Height of the picture in pixels, before upscaling. Larger takes longer.", 8),
                "steps": _count(
                    20,
                    1,
                    1000,
                    (
                        "Sampling steps. Each step runs the U-Net with and without the prompt. Rapid Diffusion measures 50 steps "
                        "(section 4.4)."
                    ),
                ),
                "runs": _count(3, 1, 100, "Measured runs, 1 to 100; the table gives their median. More is steadier and takes longer."),
                "warmup": _count(
                    1, 0, 20, "Runs before the measured ones, 0 to 20. The first call compiles and allocates, which takes longer."
                ),
            },
            "optional": {
                "upscale_model": ("UPSCALE_MODEL", {"tooltip": "An upscaler, to be measured too."}),
                "student_model": ("MODEL", {"tooltip": "A smaller or faster model, measured beside the first one for parts_table."}),
                "student_vae": (
                    "VAE",
                    {"tooltip": "The student's VAE, for example with a pruned decoder. Without it the first one serves."},
                ),
                "student_steps": _count(0, 0, 1000, "The student's sampling steps. 0: as many as the first model's."),
            },
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        return float("nan")  # measured again each time the graph is queued

    def execute(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        width: int,
        height: int,
        steps: int,
        runs: int,
        warmup: int,
        upscale_model: Any = None,
        student_model: Any = None,
        student_vae: Any = None,
        student_steps: int = 0,
    ) -> tuple[str, Tensor, str, str]:
        import json

        from ..core.metrics.parts_table import parts_table
        from ..core.metrics.profile import Settings, draw_chart, profile_pipeline

        settings = Settings(width, height, steps, runs=runs, warmup=warmup)
        profile = profile_pipeline(model, clip, vae, upscale_model, settings)
        profiles = {"whole": profile}
        if student_model is not None or student_vae is not None or student_steps:
            fewer = Settings(width, height, student_steps or steps, runs=runs, warmup=warmup)
            small = (model if student_model is None else student_model, clip, vae if student_vae is None else student_vae)
            profiles["student"] = profile_pipeline(*small, upscale_model, fewer)
        return profile.table(), draw_chart(profile), json.dumps(profile.as_dict(), indent=2), parts_table(profiles)


NODE_CLASS_MAPPINGS = {"RapidDrawProfilePipeline": ProfilePipeline}
