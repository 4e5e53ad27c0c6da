"""Nodes that change the resolution during sampling (Coop-Diffusion of PanGu-Draw, section 4.2, Algorithm 1, sub-module 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .works_with import ANY_MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent

METHODS = ["bicubic", "bilinear", "lanczos", "nearest", "area"]


def _whole(default: int, high: int, tooltip: str, step: int = 8) -> tuple[str, dict[str, Any]]:
    return ("INT", {"default": default, "min": 0, "max": high, "step": step, "tooltip": tooltip})


def _cfg(tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": 6.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": tooltip})


def _target() -> dict[str, Any]:
    """Return the inputs for the size of the result and the resampling."""
    return {
        "scale_by": (
            "FLOAT",
            {
                "default": 2.0,
                "min": 0.05,
                "max": 16.0,
                "step": 0.05,
                "tooltip": "How many times larger each side becomes, 0.05 to 16. Below 1 the bridge goes from high to low resolution.",
            },
        ),
        "width": _whole(
            0, 16384, "Width of the result in pixels, used instead of scale_by. 0: follows from height; both 0: scale_by decides."
        ),
        "height": _whole(0, 16384, "Height of the result in pixels, used instead of scale_by. 0: follows from width."),
        "upscale_method": (
            METHODS,
            {"default": "bicubic", "tooltip": "How the picture is resampled. area suits reducing. PanGu-Draw does not name its method."},
        ),
    }


def _tile() -> tuple[str, dict[str, Any]]:
    tooltip = "Decode and encode in tiles with sides of this many pixels. 0: whole pictures, and tiles only where memory runs out."
    return ("INT", {"default": 0, "min": 0, "max": 8192, "step": 64, "advanced": True, "tooltip": tooltip})


def _size(width: int, height: int) -> tuple[int, int] | None:
    return (width, height) if width or height else None


class ResolutionBridge:
    """Carries a half-drawn picture to another resolution through image space."""

    DISPLAY_NAME = "Resolution Bridge"
    CATEGORY = "RapidDraw/bridge"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("hires fix", "highres fix", "latent upscale", "upscale latent", "second pass")
    DESCRIPTION = (
        "Lets a second sampler finish a half-drawn picture at another resolution, without artefacts: the model's estimate of the clean "
        "picture is decoded, resampled and encoded (Coop-Diffusion of PanGu-Draw, Algorithm 1, sub-module 2). Go on with the low part of "
        "the sigmas and noise of ANOTHER seed. Enlarging the noisy latent instead would make its noise correlated. The second model may be "
        "of another family, for example SD 1.5 and then Flux: link model_high and sigmas_low, and sample with the sigmas from here. "
        "For any model."
    )
    RETURN_TYPES = ("LATENT", "IMAGE", "SIGMAS")
    RETURN_NAMES = ("latent", "image", "sigmas")
    OUTPUT_TOOLTIPS = (
        "The clean latent at the new resolution, for a sampler with fresh noise and the low part of the sigmas.",
        "The resampled picture, before it is encoded. A video's frames stand in a row.",
        "sigmas_low in the noise levels of model_high. Empty without sigmas_low.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that drew the latent so far, usually the low-resolution one."}),
                "positive": ("CONDITIONING", {"tooltip": "What that model draws."}),
                "negative": ("CONDITIONING", {"tooltip": "What that model avoids."}),
                "vae": ("VAE", {"tooltip": "The VAE of that model. It decodes."}),
                "vae_high": ("VAE", {"tooltip": "The VAE of the model that goes on. It encodes, and may be the same."}),
                "latent": ("LATENT", {"tooltip": "The noisy output of the sampler that ran the high part of the sigmas."}),
                "sigmas": ("SIGMAS", {"tooltip": "The high part of the sigmas. Its last value is the noise level of the latent."}),
                "cfg": _cfg(
                    "Guidance scale of the extra evaluation; use the value of the sampler before. PanGu-Draw uses 2 and 9 in "
                    "Tables 1 and 2, and 6 in its released code."
                ),
                **_target(),
                "extra_eval": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "On: one more evaluation of the model at the latent's own noise level, as in PanGu-Draw's Algorithm 1. "
                        "Off: the latent is a clean estimate already, such as the sampler's denoised_output; that estimate is "
                        "one step older and costs nothing.",
                    },
                ),
                "tile": _tile(),
            },
            "optional": {
                "upscale_model": (
                    "UPSCALE_MODEL",
                    {"tooltip": "An upscaler, such as an ESRGAN. It enlarges the picture instead of upscale_method."},
                ),
                "model_high": (
                    "MODEL",
                    {"tooltip": "The model that goes on, where it is of another family: sigmas_low are converted to its noise levels."},
                ),
                "sigmas_low": (
                    "SIGMAS",
                    {"tooltip": "The low part of the sigmas, to be converted for model_high at the same ratio of picture to noise."},
                ),
            },
        }

    def execute(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        vae_high: Any,
        latent: Latent,
        sigmas: Tensor,
        cfg: float,
        scale_by: float,
        width: int,
        height: int,
        upscale_method: str,
        extra_eval: bool,
        tile: int,
        upscale_model: Any = None,
        model_high: Any = None,
        sigmas_low: Tensor | None = None,
    ) -> tuple[Latent, Tensor, Tensor]:
        from ..core.bridge.convention import sigmas_for
        from ..core.bridge.resample import Resampling
        from ..core.bridge.resolution import bridge_resolution, noise_level
        from ..core.bridge.side import Side

        side = Side(model, vae, positive, negative, cfg)
        resampling = Resampling(scale_by, _size(width, height), upscale_method, upscale_model, tile)
        level, low = noise_level(sigmas), sigmas_for(model, model_high, sigmas_low)
        return *bridge_resolution(side, vae_high, latent, level, resampling, extra_eval), low


class ResolutionBridgeSampler:
    """A KSampler with two models, or one model at two resolutions."""

    DISPLAY_NAME = "KSampler (Resolution Bridge)"
    CATEGORY = "RapidDraw/bridge"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = (
        "hires fix", "highres fix", "two pass", "second pass", "large picture", "4k", "avoid duplicates", "kohya deep shrink", "ksampler",
    )  # fmt: skip
    DESCRIPTION = (
        "Draws pictures larger than the model was trained for, and keeps their composition: it composes at low resolution and finishes at "
        "high resolution in one sampling run, like a hires fix without a second start. From t_low down, the second model goes on with the "
        "enlarged picture and fresh noise of seed + 1 (Coop-Diffusion of PanGu-Draw, Algorithm 1, sub-module 2). Both models may be the "
        "same, or of two families, as SD 1.5 and Flux. "
        "For any model."
    )
    RETURN_TYPES = ("LATENT", "IMAGE")
    RETURN_NAMES = ("latent", "image")
    OUTPUT_TOOLTIPS = ("The drawn latent, at the new resolution.", "The resampled picture at the bridge, before the second model goes on.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.host import current

        host = current()
        seed = "Seed of the first model's noise. The second model gets seed + 1, since the same seed would not give fresh noise."
        t_low = (
            "Timestep from which the second model goes on, 0 to 999. Higher lets the second model invent more; lower keeps more of the "
            "small picture. 400 is our default; PanGu-Draw gives no value."
        )
        kinds = (
            "How the hand-over is given. timestep: by t_low. The others use switch_at. model timestep: as the network is shown it, which "
            "Flux, Qwen-Image and Z-Image count to 1. sigma: the noise level. share of the steps: 0 to 1. step: the second model's first."
        )
        number = (
            "Where the second model goes on, in the unit of switch_as; not used with timestep. As a share of the steps, 0.6 gives the "
            "first model the first 60%."
        )
        return {
            "required": {
                "model_low": ("MODEL", {"tooltip": "The first model. It draws from noise down to t_low."}),
                "model_high": ("MODEL", {"tooltip": "The second model. It goes on from t_low, and may be the same."}),
                "positive_low": ("CONDITIONING", {"tooltip": "What the first model draws, ControlNets included."}),
                "negative_low": ("CONDITIONING", {"tooltip": "What the first model avoids."}),
                "positive_high": ("CONDITIONING", {"tooltip": "What the second model draws."}),
                "negative_high": ("CONDITIONING", {"tooltip": "What the second model avoids."}),
                "vae_low": ("VAE", {"tooltip": "The first model's VAE."}),
                "vae_high": ("VAE", {"tooltip": "The second model's VAE. May be the same."}),
                "latent_image": ("LATENT", {"tooltip": "The latent to start from, at the first model's resolution."}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True, "tooltip": seed}),
                "steps": (
                    "INT",
                    {
                        "default": 20,
                        "min": 1,
                        "max": 10000,
                        "tooltip": "Steps of the whole sampling run, both models together. More is more exact and takes longer.",
                    },
                ),
                "cfg_low": _cfg(
                    "Guidance scale of the first model, 0 to 100. Higher follows the prompt more closely. PanGu-Draw uses 2 and 9 in "
                    "Tables 1 and 2, and 6 in its released code."
                ),
                "cfg_high": _cfg("Guidance scale of the second model, 0 to 100. Higher follows the prompt more closely."),
                "sampler_name": (
                    host.sampling.sampler_names(),
                    {"tooltip": "The sampling method. It starts again at the bridge, without memory of earlier steps."},
                ),
                "scheduler": (
                    host.sampling.scheduler_names(),
                    {"tooltip": "The noise levels of the steps, on the first model's schedule."},
                ),
                "t_low": ("INT", {"default": 400, "min": 0, "max": 999, "step": 10, "tooltip": t_low}),
                **_target(),
                "tile": _tile(),
            },
            "optional": {
                "upscale_model": (
                    "UPSCALE_MODEL",
                    {"tooltip": "An upscaler, such as an ESRGAN. It enlarges the picture instead of upscale_method."},
                ),
                "switch_as": (
                    ["timestep", "model timestep", "sigma", "share of the steps", "step"],
                    {"default": "timestep", "tooltip": kinds},
                ),
                "switch_at": ("FLOAT", {"default": 0.6, "min": 0.0, "max": 10000.0, "step": 0.001, "round": False, "tooltip": number}),
            },
        }

    def execute(
        self,
        model_low: Any,
        model_high: Any,
        positive_low: Any,
        negative_low: Any,
        positive_high: Any,
        negative_high: Any,
        vae_low: Any,
        vae_high: Any,
        latent_image: Latent,
        seed: int,
        steps: int,
        cfg_low: float,
        cfg_high: float,
        sampler_name: str,
        scheduler: str,
        t_low: int,
        scale_by: float,
        width: int,
        height: int,
        upscale_method: str,
        tile: int,
        upscale_model: Any = None,
        switch_as: str = "timestep",
        switch_at: float = 0.6,
    ) -> tuple[Latent, Tensor]:
        from ..core.bridge.resample import Resampling
        from ..core.bridge.resolution import sample_across
        from ..core.bridge.side import Side
        from ..core.diffusion.noise import NoiseLevel
        from ..core.host import SamplingRun

        low = Side(model_low, vae_low, positive_low, negative_low, cfg_low)
        high = Side(model_high, vae_high, positive_high, negative_high, cfg_high)
        run = SamplingRun(seed, steps, sampler_name, scheduler)
        resampling = Resampling(scale_by, _size(width, height), upscale_method, upscale_model, tile)
        at = int(switch_at) if switch_as == "step" and switch_at == int(switch_at) else switch_at
        return sample_across(low, high, latent_image, run, t_low if switch_as == "timestep" else NoiseLevel(at, switch_as), resampling)


class NoiseCorrelation:
    """A measure of how white the noise in a latent is."""

    DISPLAY_NAME = "Noise Correlation"
    CATEGORY = "RapidDraw/bridge"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("noise check", "latent noise", "white noise", "noise statistics", "debug latent")
    DESCRIPTION = (
        "Checks whether a latent's noise is still the kind that models were trained on. It compares the noisy latent with its clean one "
        "and measures the correlation of neighbouring cells (white noise: 0) and the strength (white noise: 1). A noisy latent enlarged "
        "by bilinear x2 gives 0.75 and 0.64, a bridged one 0 and 1. "
        "For any model."
    )
    RETURN_TYPES = ("FLOAT", "FLOAT", "STRING")
    RETURN_NAMES = ("correlation", "std", "text")
    OUTPUT_TOOLTIPS = (
        "Correlation of neighbouring cells, -1 to 1. White noise has 0.",
        "Standard deviation in units of the noise level. White noise has 1.",
        "Both in words.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that the latents are for; its scale of latents is used."}),
                "noisy": ("LATENT", {"tooltip": "The latent with noise, for example from AddNoise."}),
                "clean": ("LATENT", {"tooltip": "The same latent without noise."}),
                "sigmas": ("SIGMAS", {"tooltip": "The low part of the sigmas. Its first value is the noise level."}),
            }
        }

    def execute(self, model: Any, noisy: Latent, clean: Latent, sigmas: Tensor) -> tuple[float, float, str]:
        from ..core.bridge.resolution import noise_level
        from ..core.diffusion.noise import convention_of
        from ..core.metrics.noise import noise_statistics

        scaled = (model.model.process_latent_in(latent["samples"].float()) for latent in (noisy, clean))
        convention = convention_of(model.get_model_object("model_sampling"))
        found = noise_statistics(*scaled, noise_level(sigmas, first=True), convention)
        return found.correlation, found.std, found.table()


NODE_CLASS_MAPPINGS = {
    "RapidDrawResolutionBridge": ResolutionBridge,
    "RapidDrawResolutionBridgeSampler": ResolutionBridgeSampler,
    "RapidDrawNoiseCorrelation": NoiseCorrelation,
}
