"""Stock nodes KSampler and KSamplerAdvanced, and the inputs that sampling nodes share."""

from __future__ import annotations

from typing import Any

MAX_SEED = 2**64 - 1


def sampler_names() -> list[str]:
    """Return the names that KSampler and KSamplerSelect offer."""
    from ...host.embedded.sampling import STOCK_SAMPLERS

    return list(STOCK_SAMPLERS)


def scheduler_names() -> list[str]:
    """Return the names that KSampler and BasicScheduler offer."""
    from ...diffusion.schedule import SCHEDULER_NAMES

    return list(SCHEDULER_NAMES)


def seed_input(tooltip: str = "The seed of the noise. The same seed gives the same picture.") -> tuple[str, dict[str, Any]]:
    """Return the input of a seed as ComfyUI declares it."""
    return ("INT", {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True, "tooltip": tooltip})


def cfg_input() -> tuple[str, dict[str, Any]]:
    """Return the input of the guidance scale as ComfyUI declares it."""
    tooltip = "Guidance scale: higher follows the prompt more closely; 1 switches guidance off and halves the work."
    return ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": tooltip})


def steps_input() -> tuple[str, dict[str, Any]]:
    """Return the input of the number of steps as ComfyUI declares it."""
    return ("INT", {"default": 20, "min": 1, "max": 10000, "tooltip": "Steps from noise to picture."})


def sampling_inputs() -> dict[str, Any]:
    """Return the inputs that both KSamplers have, in ComfyUI's order."""
    return {
        "steps": steps_input(),
        "cfg": cfg_input(),
        "sampler_name": (sampler_names(), {"tooltip": "How a step is taken."}),
        "scheduler": (scheduler_names(), {"tooltip": "Which noise levels the steps visit."}),
        "positive": ("CONDITIONING", {"tooltip": "What the picture should show."}),
        "negative": ("CONDITIONING", {"tooltip": "What the picture should not show."}),
        "latent_image": ("LATENT", {"tooltip": "The latent to denoise."}),
    }


class KSampler:
    DISPLAY_NAME = "KSampler"
    CATEGORY = "sampling"
    DESCRIPTION = "Denoises a latent under a positive and a negative conditioning."
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The denoised latent.",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = "1 starts from pure noise; less keeps the structure of the given picture."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that denoises."}),
                "seed": seed_input(),
                **sampling_inputs(),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": strength}),
            }
        }

    def sample(
        self,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        denoise: float = 1.0,
    ) -> tuple[dict[str, Any]]:
        from ...host.embedded.latent import RandomNoise
        from ...host.embedded.sampling import make_guider, sample_latent, sampler_object, scheduled_sigmas

        guider, sigmas = make_guider(model, positive, negative, cfg), scheduled_sigmas(model, scheduler, steps, denoise)
        return (sample_latent(RandomNoise(seed), guider, sampler_object(sampler_name), sigmas, latent_image)[0],)


class KSamplerAdvanced:
    DISPLAY_NAME = "KSampler (Advanced)"
    CATEGORY = "sampling"
    DESCRIPTION = "KSampler over a part of the steps, with or without added noise."
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        step = {"min": 0, "max": 10000, "advanced": True}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that denoises."}),
                "add_noise": (["enable", "disable"], {"advanced": True, "tooltip": "Disable for the second part of a split sampling run."}),
                "noise_seed": seed_input(),
                **sampling_inputs(),
                "start_at_step": ("INT", {"default": 0, **step, "tooltip": "First step taken."}),
                "end_at_step": ("INT", {"default": 10000, **step, "tooltip": "The step to stop before."}),
                "return_with_leftover_noise": (
                    ["disable", "enable"],
                    {"advanced": True, "tooltip": "Enable where another sampler goes on from here."},
                ),
            }
        }

    def sample(
        self,
        model: Any,
        add_noise: str,
        noise_seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        start_at_step: int,
        end_at_step: int,
        return_with_leftover_noise: str,
        denoise: float = 1.0,
    ) -> tuple[dict[str, Any]]:
        from ...host.embedded.latent import EmptyNoise, RandomNoise
        from ...host.embedded.sampling import cut_sigmas, make_guider, sample_latent, sampler_object, scheduled_sigmas

        noise = EmptyNoise(noise_seed) if add_noise == "disable" else RandomNoise(noise_seed)
        sigmas = scheduled_sigmas(model, scheduler, steps, denoise)
        sigmas = cut_sigmas(sigmas, start_at_step, end_at_step, return_with_leftover_noise != "enable")
        return (sample_latent(noise, make_guider(model, positive, negative, cfg), sampler_object(sampler_name), sigmas, latent_image)[0],)


NODES = [KSampler, KSamplerAdvanced]
