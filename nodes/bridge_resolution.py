"""Coop-Diffusion between resolutions (PanGu-Draw, Alg. 1, sub-module 2), and a look at the noise it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent

METHODS = ["bicubic", "bilinear", "lanczos", "nearest", "area"]


def _whole(default: int, high: int, tooltip: str, step: int = 8) -> tuple[str, dict[str, Any]]:
    return ("INT", {"default": default, "min": 0, "max": high, "step": step, "tooltip": tooltip})


def _cfg(tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": 6.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": tooltip})


def _target() -> dict[str, Any]:
    """How large the result is and how it gets there."""
    return {
        "scale_by": (
            "FLOAT",
            {
                "default": 2.0,
                "min": 0.05,
                "max": 16.0,
                "step": 0.05,
                "tooltip": "How many times larger, along each side; below 1 the bridge goes from high to low resolution.",
            },
        ),
        "width": _whole(
            0, 16384, "Width of the result in pixels, instead of scale_by. 0 follows from height; both 0 leave it to scale_by."
        ),
        "height": _whole(0, 16384, "Height of the result in pixels, instead of scale_by. 0 follows from width."),
        "upscale_method": (
            METHODS,
            {"default": "bicubic", "tooltip": "How the picture is resampled. The paper does not say; area is for reducing."},
        ),
    }


def _tile() -> tuple[str, dict[str, Any]]:
    tooltip = "Decode and encode in tiles of so many pixels. 0 does it whole, and in tiles only where memory runs out."
    return ("INT", {"default": 0, "min": 0, "max": 8192, "step": 64, "advanced": True, "tooltip": tooltip})


def _size(width: int, height: int) -> tuple[int, int] | None:
    return (width, height) if width or height else None


class ResolutionBridge:
    """Carries a half-drawn picture to another resolution through image space."""

    DISPLAY_NAME = "Resolution Bridge"
    CATEGORY = "RapidDraw/bridge"
    DESCRIPTION = (
        "Carries a half-drawn picture from one resolution to another (Coop-Diffusion, PanGu-Draw): the model says once more what it takes "
        "the picture to be, that is decoded, resampled and encoded. Go on with the low part of the sigmas and noise of ANOTHER seed. "
        "Enlarging the noisy latent itself would correlate its noise."
    )
    RETURN_TYPES = ("LATENT", "IMAGE")
    RETURN_NAMES = ("latent", "image")
    OUTPUT_TOOLTIPS = (
        "The clean latent at the new resolution, for a sampler with fresh noise and the low part of the sigmas.",
        "The resampled picture that was encoded.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that drew the latent so far (usually the low-resolution one)."}),
                "positive": ("CONDITIONING", {"tooltip": "What that model draws."}),
                "negative": ("CONDITIONING", {"tooltip": "What that model avoids."}),
                "vae": ("VAE", {"tooltip": "The VAE of that model: it decodes."}),
                "vae_high": ("VAE", {"tooltip": "The VAE of the model that goes on: it encodes. May be the same."}),
                "latent": ("LATENT", {"tooltip": "The noisy output of the sampler that ran the high part of the sigmas."}),
                "sigmas": ("SIGMAS", {"tooltip": "The high part of the sigmas: the last one is the noise level of the latent."}),
                "cfg": _cfg("Guidance of the extra evaluation; the same as in the sampler before. The paper's release uses 6."),
                **_target(),
                "extra_eval": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Ask the model once more at the latent's own noise level, as the paper does. Off: the latent is a clean "
                        "estimate already, such as the sampler's denoised_output, which is one step older and costs nothing.",
                    },
                ),
                "tile": _tile(),
            },
            "optional": {"upscale_model": ("UPSCALE_MODEL", {"tooltip": "Enlarges the picture instead of upscale_method, e.g. ESRGAN."})},
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
    ) -> tuple[Latent, Tensor]:
        from ..core.bridge.resolution import bridge_resolution, noise_level

        return bridge_resolution(
            model,
            positive,
            negative,
            cfg,
            vae,
            latent,
            noise_level(sigmas),
            vae_high,
            scale_by=scale_by,
            size=_size(width, height),
            method=upscale_method,
            upscaler=upscale_model,
            extra_eval=extra_eval,
            tile=tile,
        )


class ResolutionBridgeSampler:
    """A KSampler over two models of different resolution."""

    DISPLAY_NAME = "KSampler (Resolution Bridge)"
    CATEGORY = "RapidDraw/bridge"
    DESCRIPTION = (
        "Draws the composition at low resolution and the rest at high resolution in one walk (Coop-Diffusion, PanGu-Draw): from t_low down "
        "the second model goes on with the enlarged picture and fresh noise of seed + 1. Cheaper than drawing all of it large, and a model "
        "that was trained on small pictures keeps its composition. Both models may be the same."
    )
    RETURN_TYPES = ("LATENT", "IMAGE")
    RETURN_NAMES = ("latent", "image")
    OUTPUT_TOOLTIPS = ("The drawn latent at the new resolution.", "The resampled picture at the bridge, before the second model.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.host import current

        host = current()
        seed = "Seed of the first model's noise; the second one gets seed + 1, because the same would be no fresh noise."
        t_low = (
            "The timestep (0 to 999) from which the second model goes on. Higher leaves it more to invent, lower keeps more of the small "
            "picture. 400 is our default; the paper gives none."
        )
        return {
            "required": {
                "model_low": ("MODEL", {"tooltip": "Draws from noise down to t_low."}),
                "model_high": ("MODEL", {"tooltip": "Goes on from t_low. May be the same model."}),
                "positive_low": ("CONDITIONING", {"tooltip": "What the first model draws, ControlNets included."}),
                "negative_low": ("CONDITIONING", {"tooltip": "What the first model avoids."}),
                "positive_high": ("CONDITIONING", {"tooltip": "What the second model draws."}),
                "negative_high": ("CONDITIONING", {"tooltip": "What the second model avoids."}),
                "vae_low": ("VAE", {"tooltip": "The first model's VAE."}),
                "vae_high": ("VAE", {"tooltip": "The second model's VAE. May be the same."}),
                "latent_image": ("LATENT", {"tooltip": "The latent to start from, at the first model's resolution."}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True, "tooltip": seed}),
                "steps": ("INT", {"default": 20, "min": 1, "max": 10000, "tooltip": "Steps of the whole walk, both models together."}),
                "cfg_low": _cfg("Guidance of the first model. The paper's release uses 6."),
                "cfg_high": _cfg("Guidance of the second model."),
                "sampler_name": (host.sampling.sampler_names(), {"tooltip": "How a step is taken. Its history starts anew at the bridge."}),
                "scheduler": (
                    host.sampling.scheduler_names(),
                    {"tooltip": "Which noise levels the steps visit, on the first model's schedule."},
                ),
                "t_low": ("INT", {"default": 400, "min": 0, "max": 999, "step": 10, "tooltip": t_low}),
                **_target(),
                "tile": _tile(),
            },
            "optional": {"upscale_model": ("UPSCALE_MODEL", {"tooltip": "Enlarges the picture instead of upscale_method, e.g. ESRGAN."})},
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
    ) -> tuple[Latent, Tensor]:
        from ..core.bridge.resolution import sample_across

        return sample_across(
            (model_low, model_high),
            (positive_low, positive_high),
            (negative_low, negative_high),
            (cfg_low, cfg_high),
            (vae_low, vae_high),
            latent_image,
            seed=seed,
            steps=steps,
            sampler_name=sampler_name,
            scheduler=scheduler,
            t_low=t_low,
            scale_by=scale_by,
            size=_size(width, height),
            method=upscale_method,
            upscaler=upscale_model,
            tile=tile,
        )


class NoiseCorrelation:
    """Says whether the noise in a latent is still white."""

    DISPLAY_NAME = "Noise Correlation"
    CATEGORY = "RapidDraw/bridge"
    DESCRIPTION = (
        "Compares a noisy latent with its clean one: how much neighbouring cells' noise is correlated (white noise: 0) and how strong it "
        "is (white noise: 1). An enlarged noisy latent shows 0.75 and 0.64 (bilinear x2), a bridged one 0 and 1."
    )
    RETURN_TYPES = ("FLOAT", "FLOAT", "STRING")
    RETURN_NAMES = ("correlation", "std", "text")
    OUTPUT_TOOLTIPS = ("Correlation of neighbouring cells, -1 to 1.", "Standard deviation in units of the noise level.", "Both in words.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model whose scale the latents have."}),
                "noisy": ("LATENT", {"tooltip": "The latent with noise, for example from AddNoise."}),
                "clean": ("LATENT", {"tooltip": "The same latent without it."}),
                "sigmas": ("SIGMAS", {"tooltip": "The low part of the sigmas: the first one is the noise level."}),
            }
        }

    def execute(self, model: Any, noisy: Latent, clean: Latent, sigmas: Tensor) -> tuple[float, float, str]:
        from ..core.bridge.resolution import noise_level
        from ..core.metrics.noise import noise_statistics

        scaled = (model.model.process_latent_in(latent["samples"].float()) for latent in (noisy, clean))
        found = noise_statistics(*scaled, noise_level(sigmas, first=True))
        return found.correlation, found.std, found.table()


NODE_CLASS_MAPPINGS = {
    "RapidDrawResolutionBridge": ResolutionBridge,
    "RapidDrawResolutionBridgeSampler": ResolutionBridgeSampler,
    "RapidDrawNoiseCorrelation": NoiseCorrelation,
}
