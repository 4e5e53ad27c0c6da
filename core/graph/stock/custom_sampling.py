"""Stock nodes of custom sampling: noise, guider, sampler and sigmas as parts, and the node that runs them."""

from __future__ import annotations

from typing import Any

from ...errors import InputError
from .sampling import cfg_input, sampler_names, scheduler_names, seed_input, steps_input


class RandomNoise:
    DISPLAY_NAME = "RandomNoise"
    CATEGORY = "sampling/custom_sampling/noise"
    DESCRIPTION = "Noise from a seed."
    RETURN_TYPES = ("NOISE",)
    FUNCTION = "get_noise"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"noise_seed": seed_input()}}

    def get_noise(self, noise_seed: int) -> tuple[Any]:
        from ...host.embedded.latent import RandomNoise as Noise

        return (Noise(noise_seed),)


class DisableNoise:
    DISPLAY_NAME = "DisableNoise"
    CATEGORY = "sampling/custom_sampling/noise"
    DESCRIPTION = "No added noise, for the second part of a split sampling run."
    RETURN_TYPES = ("NOISE",)
    FUNCTION = "get_noise"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def get_noise(self) -> tuple[Any]:
        from ...host.embedded.latent import EmptyNoise

        return (EmptyNoise(),)


class CFGGuider:
    DISPLAY_NAME = "CFGGuider"
    CATEGORY = "sampling/custom_sampling/guiders"
    DESCRIPTION = "Classifier-free guidance between two conditionings."
    RETURN_TYPES = ("GUIDER",)
    FUNCTION = "get_guider"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that denoises."}),
                "positive": ("CONDITIONING", {"tooltip": "What the picture should show."}),
                "negative": ("CONDITIONING", {"tooltip": "What the picture should not show."}),
                "cfg": cfg_input(),
            }
        }

    def get_guider(self, model: Any, positive: Any, negative: Any, cfg: float) -> tuple[Any]:
        from ...host import current

        return (current().sampling.make_guider(model, positive, negative, cfg),)


class BasicGuider:
    DISPLAY_NAME = "BasicGuider"
    CATEGORY = "sampling/custom_sampling/guiders"
    DESCRIPTION = "One conditioning, no guidance."
    RETURN_TYPES = ("GUIDER",)
    FUNCTION = "get_guider"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that denoises."}),
                "conditioning": ("CONDITIONING", {"tooltip": "What the picture should show."}),
            }
        }

    def get_guider(self, model: Any, conditioning: Any) -> tuple[Any]:
        from ...host.embedded.guider import CFGGuider as Guider

        guider = Guider(model)
        guider.set_conds(conditioning)
        return (guider,)


class KSamplerSelect:
    DISPLAY_NAME = "KSamplerSelect"
    CATEGORY = "sampling/custom_sampling/samplers"
    DESCRIPTION = "A sampler by name."
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "get_sampler"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"sampler_name": (sampler_names(), {"tooltip": "How a step is taken."})}}

    def get_sampler(self, sampler_name: str) -> tuple[Any]:
        from ...host.embedded.sampling import sampler_object

        return (sampler_object(sampler_name),)


class BasicScheduler:
    DISPLAY_NAME = "BasicScheduler"
    CATEGORY = "sampling/custom_sampling/schedulers"
    DESCRIPTION = "The noise levels of a model's own schedule."
    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "get_sigmas"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = "Less than 1 takes only the last part of the noise levels."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model whose schedule is used."}),
                "scheduler": (scheduler_names(), {"tooltip": "Which noise levels the steps visit."}),
                "steps": steps_input(),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": strength}),
            }
        }

    def get_sigmas(self, model: Any, scheduler: str, steps: int, denoise: float) -> tuple[Any]:
        from ...host.embedded.sampling import scheduled_sigmas

        return (scheduled_sigmas(model, scheduler, steps, denoise),)


class KarrasScheduler:
    DISPLAY_NAME = "KarrasScheduler"
    CATEGORY = "sampling/custom_sampling/schedulers"
    DESCRIPTION = "Noise levels evenly spaced in sigma^(1/rho) (Karras et al. 2022, eq. 5)."
    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "get_sigmas"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        level = {"min": 0.0, "max": 5000.0, "step": 0.01, "round": False, "advanced": True}
        return {
            "required": {
                "steps": steps_input(),
                "sigma_max": ("FLOAT", {"default": 14.614642, **level, "tooltip": "The first noise level."}),
                "sigma_min": ("FLOAT", {"default": 0.0291675, **level, "tooltip": "The last noise level before 0."}),
                "rho": ("FLOAT", {"default": 7.0, **level, "max": 100.0, "tooltip": "Higher puts more steps at low noise; the paper's 7."}),
            }
        }

    def get_sigmas(self, steps: int, sigma_max: float, sigma_min: float, rho: float) -> tuple[Any]:
        import torch

        if not (0 <= sigma_min <= sigma_max <= 5000 and 0 < rho <= 100 and 1 <= steps <= 10000):
            raise InputError(
                f"need 0 <= sigma_min <= sigma_max <= 5000, 0 < rho <= 100 and 1..10000 steps; "
                f"sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}, steps={steps} were given"
            )
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        levels = (high + torch.linspace(0, 1, steps) * (low - high)) ** rho
        return (torch.cat([levels, levels.new_zeros(1)]),)


class _Split:
    """What nodes that cut noise levels in two have in common."""

    CATEGORY = "sampling/custom_sampling/sigmas"
    RETURN_TYPES = ("SIGMAS", "SIGMAS")
    RETURN_NAMES = ("high_sigmas", "low_sigmas")
    FUNCTION = "get_sigmas"


class SplitSigmas(_Split):
    DISPLAY_NAME = "SplitSigmas"
    DESCRIPTION = "Cuts a list of noise levels in two; both parts hold the level at the cut."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "sigmas": ("SIGMAS", {"tooltip": "The noise levels to cut."}),
                "step": ("INT", {"default": 0, "min": 0, "max": 10000, "tooltip": "Steps in the first part."}),
            }
        }

    def get_sigmas(self, sigmas: Any, step: int) -> tuple[Any, Any]:
        if not 0 <= step <= 10000:
            raise InputError(f"step must lie between 0 and 10000, {step} was given")
        return sigmas[: step + 1], sigmas[step:]


class SplitSigmasDenoise(_Split):
    DISPLAY_NAME = "SplitSigmasDenoise"
    DESCRIPTION = "Cuts a list of noise levels in two where a share of its steps is left; both parts hold the level at the cut."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        share = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": "Share of the steps in the second part."}
        return {"required": {"sigmas": ("SIGMAS", {"tooltip": "The noise levels to cut."}), "denoise": ("FLOAT", share)}}

    def get_sigmas(self, sigmas: Any, denoise: float) -> tuple[Any, Any]:
        if not 0 <= denoise <= 1:
            raise InputError(f"denoise must lie between 0 and 1, {denoise} was given")
        left = round(max(len(sigmas) - 1, 0) * denoise)
        return sigmas[:-left], sigmas[-(left + 1) :]  # with nothing left the first part is empty, as in ComfyUI


class AddNoise:
    DISPLAY_NAME = "AddNoise"
    CATEGORY = "_for_testing/custom_sampling/noise"
    DESCRIPTION = "A latent with noise of the first of the noise levels, as the sampler would add it."
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "add_noise"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model whose scale and schedule are used."}),
                "noise": ("NOISE", {"tooltip": "The noise to add."}),
                "sigmas": ("SIGMAS", {"tooltip": "Its first entry less its last is the noise level."}),
                "latent_image": ("LATENT", {"tooltip": "The latent to add it to."}),
            }
        }

    def add_noise(self, model: Any, noise: Any, sigmas: Any, latent_image: dict[str, Any]) -> tuple[dict[str, Any]]:
        import torch

        if len(sigmas) == 0:
            return (latent_image,)
        base, start = model.model, latent_image["samples"]
        level = (sigmas[0] - sigmas[-1]).abs() if len(sigmas) > 1 else sigmas[0]
        start = base.process_latent_in(start) if start.any() else start
        noisy = base.process_latent_out(base.model_sampling.noise_scaling(level, noise.generate_noise(latent_image), start))
        return ({**latent_image, "samples": torch.nan_to_num(noisy, nan=0.0, posinf=0.0, neginf=0.0)},)


class SamplerCustomAdvanced:
    DISPLAY_NAME = "SamplerCustomAdvanced"
    CATEGORY = "sampling/custom_sampling"
    DESCRIPTION = "Runs a sampler from its parts."
    RETURN_TYPES = ("LATENT", "LATENT")
    RETURN_NAMES = ("output", "denoised_output")
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "noise": ("NOISE", {"tooltip": "The noise to start from."}),
                "guider": ("GUIDER", {"tooltip": "The model with its guidance."}),
                "sampler": ("SAMPLER", {"tooltip": "How a step is taken."}),
                "sigmas": ("SIGMAS", {"tooltip": "Which noise levels the steps visit."}),
                "latent_image": ("LATENT", {"tooltip": "The latent to denoise."}),
            }
        }

    def sample(self, noise: Any, guider: Any, sampler: Any, sigmas: Any, latent_image: dict[str, Any]) -> tuple[Any, Any]:
        from ...host.embedded.sampling import sample_latent

        return sample_latent(noise, guider, sampler, sigmas, latent_image)


NODES = [
    RandomNoise,
    DisableNoise,
    CFGGuider,
    BasicGuider,
    KSamplerSelect,
    BasicScheduler,
    KarrasScheduler,
    SplitSigmas,
    SplitSigmasDenoise,
    AddNoise,
    SamplerCustomAdvanced,
]
