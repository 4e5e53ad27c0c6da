"""Coop-Diffusion between latent spaces (PanGu-Draw, Alg. 1, sub-module 1): two models draw one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent


def _share(default: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": tooltip})


_LATENT_B = "What model B starts from; without it, the same picture as A, in B's space. May have another size."


def _cfg(tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": 6.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": tooltip})


def _pair() -> dict[str, Any]:
    """The two models, what each draws, and how they are fused."""
    every = "Fuse at every n-th step only: a fused step costs two decodings and two encodings more. 1 is the paper's way."
    end = (
        "Share of the timesteps after which each model goes on alone. At low noise the trips through the VAEs cost more detail than the "
        "other model gives; 0.8 by default, 1 fuses to the end as the paper does."
    )
    return {
        "model_a": ("MODEL", {"tooltip": "The model in whose space the picture is drawn."}),
        "vae_a": ("VAE", {"tooltip": "Model A's VAE."}),
        "positive_a": ("CONDITIONING", {"tooltip": "What model A draws, its ControlNets included."}),
        "negative_a": ("CONDITIONING", {"tooltip": "What model A avoids."}),
        "model_b": ("MODEL", {"tooltip": "The model that has a say: of another latent space, or the same model with another prompt."}),
        "vae_b": ("VAE", {"tooltip": "Model B's VAE. May be the same."}),
        "positive_b": ("CONDITIONING", {"tooltip": "What model B draws; with a ControlNet and an empty prompt this is guess mode."}),
        "negative_b": ("CONDITIONING", {"tooltip": "What model B avoids."}),
        "cfg_a": _cfg("Guidance of model A. The paper's release uses 6."),
        "cfg_b": _cfg("Guidance of model B."),
        "strength": _share(0.5, "d: how much of the picture is model B's. 0 is model A alone, bit for bit; at 1 model A is not asked."),
        "start_percent": _share(0.0, "Share of the timesteps before which each model draws alone."),
        "end_percent": _share(0.8, end),
        "bridge_every": ("INT", {"default": 1, "min": 1, "max": 10000, "advanced": True, "tooltip": every}),
    }


def _guider(given: dict[str, Any]) -> Any:
    from ..core.bridge.joint import LatentBridgeGuider
    from ..core.bridge.latent import Fusion, Side

    sides = (Side(*(given[f"{part}_{name}"] for part in ("model", "vae", "positive", "negative", "cfg"))) for name in "ab")
    fusion = Fusion(given["strength"], given["start_percent"], given["end_percent"], given["bridge_every"])
    return LatentBridgeGuider(*sides, fusion, given.get("latent_b"))


class LatentSpaceBridgeSampler:
    """Two models of different latent spaces under one sampler."""

    DISPLAY_NAME = "Latent Space Bridge Sampler"
    CATEGORY = "RapidDraw/bridge"
    DESCRIPTION = (
        "Lets two models draw one picture, even where their latent spaces, sizes or prompts differ (Coop-Diffusion, PanGu-Draw): at each "
        "step both say what they take the picture to be, their answers are fused in A's space through image space, and carried back to "
        "B's. Works with any sampler but the cfg++ ones."
    )
    RETURN_TYPES = ("LATENT", "LATENT", "IMAGE")
    RETURN_NAMES = ("latent_a", "latent_b", "image")
    OUTPUT_TOOLTIPS = (
        "The picture in model A's space.",
        "The picture in model B's space, finished by model B.",
        "Model A's picture, decoded.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "noise": (
                    "NOISE",
                    {"tooltip": "The noise of both: the same where the two latents have one shape, else of seed + 1 for B."},
                ),
                "sampler": ("SAMPLER", {"tooltip": "How a step is taken; both states take it together."}),
                "sigmas": ("SIGMAS", {"tooltip": "Which noise levels the steps visit. Both models are asked at the same sigma."}),
                "latent_a": ("LATENT", {"tooltip": "What model A starts from."}),
                **_pair(),
            },
            "optional": {"latent_b": ("LATENT", {"tooltip": _LATENT_B})},
        }

    def execute(
        self, noise: Any, sampler: Any, sigmas: Tensor, latent_a: Latent, latent_b: Latent | None = None, **pair: Any
    ) -> tuple[Latent, Latent, Tensor]:
        from ..core.bridge.joint import sample_bridged
        from ..core.host import current

        a, b = sample_bridged(_guider(pair), noise, sampler, sigmas, latent_a, latent_b)
        return a, b, current().vae.decode(pair["vae_a"], a["samples"])


class LatentSpaceBridgeGuider:
    """The same as a GUIDER, for SamplerCustomAdvanced."""

    DISPLAY_NAME = "Latent Space Bridge Guider"
    CATEGORY = "RapidDraw/bridge"
    DESCRIPTION = (
        "The latent-space bridge (Coop-Diffusion, PanGu-Draw) as a guider: link it to SamplerCustomAdvanced with model A's latent and "
        "noise. Previews and denoised_output are model A's; model B's latent stays inside. It starts from noise: for a walk in parts use "
        "Latent Space Bridge Sampler."
    )
    RETURN_TYPES = ("GUIDER",)
    RETURN_NAMES = ("guider",)
    OUTPUT_TOOLTIPS = ("Model A guided by both, for SamplerCustomAdvanced.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": _pair(), "optional": {"latent_b": ("LATENT", {"tooltip": _LATENT_B})}}

    def execute(self, **pair: Any) -> tuple[Any]:
        return (_guider(pair),)


NODE_CLASS_MAPPINGS = {
    "RapidDrawLatentSpaceBridgeSampler": LatentSpaceBridgeSampler,
    "RapidDrawLatentSpaceBridgeGuider": LatentSpaceBridgeGuider,
}
