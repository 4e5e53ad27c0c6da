"""Nodes in which two models draw one picture (Coop-Diffusion of PanGu-Draw, section 4.2, Algorithm 1, sub-module 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .works_with import ANY_MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent


def _share(default: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": tooltip})


_LATENT_B = "The latent that model B starts from, of any size. Without it, model B starts from A's picture in its own latent space."


def _cfg(tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": 6.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": tooltip})


def _pair() -> dict[str, Any]:
    """Return the inputs for the two models, their prompts, and the fusing."""
    every = (
        "Fuses at every n-th step only. More is faster and fuses less: a fused step costs two decodings and two encodings more. "
        "PanGu-Draw fuses at every step: 1."
    )
    end = (
        "Where fusing ends, as a share of the timesteps, 0 to 1. After it each model draws alone. At low noise the VAEs lose more detail "
        "than the other model gives. 1 fuses to the end, as PanGu-Draw does."
    )
    return {
        "model_a": ("MODEL", {"tooltip": "The model in whose latent space the picture is drawn."}),
        "vae_a": ("VAE", {"tooltip": "Model A's VAE."}),
        "positive_a": ("CONDITIONING", {"tooltip": "What model A draws, its ControlNets included."}),
        "negative_a": ("CONDITIONING", {"tooltip": "What model A avoids."}),
        "model_b": ("MODEL", {"tooltip": "The second model: of another latent space, or the same model with another prompt."}),
        "vae_b": ("VAE", {"tooltip": "Model B's VAE. It may be the same."}),
        "positive_b": ("CONDITIONING", {"tooltip": "What model B draws. A ControlNet with an empty prompt is ControlNet's guess mode."}),
        "negative_b": ("CONDITIONING", {"tooltip": "What model B avoids."}),
        "cfg_a": _cfg(
            "Guidance scale of model A, 0 to 100. Higher follows its prompt more closely. PanGu-Draw uses 2 and 9 in Tables 1 and "
            "2, and 6 in its released code."
        ),
        "cfg_b": _cfg("Guidance scale of model B, 0 to 100. Higher follows its prompt more closely."),
        "strength": _share(
            0.5,
            (
                "Model B's share of the picture, 0 to 1 (d in PanGu-Draw's Algorithm 1, which gives no value). 0: model A alone, bit "
                "for bit. 1: model B alone."
            ),
        ),
        "start_percent": _share(0.0, "Where fusing begins, as a share of the timesteps, 0 to 1. Before it each model draws alone."),
        "end_percent": _share(0.8, end),
        "bridge_every": ("INT", {"default": 1, "min": 1, "max": 10000, "advanced": True, "tooltip": every}),
    }


def _options() -> dict[str, Any]:
    """Return the optional inputs."""
    guess = (
        "Presets for a ControlNet of model B whose prompt is empty. early window: strength 0.9 up to 0.3 of the timesteps instead of the "
        "values above; the text loses least so. decay over depth: B's ControlNets act less in the shallow layers of a U-Net and not on the "
        "negative prompt, as in ControlNet's guess mode. both: the two together."
    )
    return {
        "latent_b": ("LATENT", {"tooltip": _LATENT_B}),
        "guess_mode": (["off", "early window", "decay over depth", "both"], {"default": "off", "tooltip": guess}),
    }


def _guider(given: dict[str, Any]) -> Any:
    from ..core.bridge.joint import LatentBridgeGuider
    from ..core.bridge.latent import Fusion, guessing
    from ..core.bridge.side import Side

    a, b = (Side(*(given[f"{part}_{name}"] for part in ("model", "vae", "positive", "negative", "cfg"))) for name in "ab")
    fusion = Fusion(given["strength"], given["start_percent"], given["end_percent"], given["bridge_every"])
    return LatentBridgeGuider(a, *guessing(b, fusion, given.get("guess_mode", "off")), given.get("latent_b"))


class LatentSpaceBridgeSampler:
    """Two models, of one or two latent spaces, under one sampler."""

    DISPLAY_NAME = "Latent Space Bridge Sampler"
    CATEGORY = "RapidDraw/bridge"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = (
        "two models", "different vae", "sd15 with sdxl", "mix models", "combine models", "two controlnets", "composable diffusion",
        "blend models",
    )  # fmt: skip
    DESCRIPTION = (
        "Lets two models draw one picture together, even of different families, latent spaces, sizes or prompts: two ControlNets with a "
        "prompt each, an SD 1.5 ControlNet that leads Flux, Qwen-Image or Z-Image, an image variation beside text. At each step the two "
        "estimates of the clean picture are fused in A's latent space, by way of image space, and carried back to B's (Coop-Diffusion of "
        "PanGu-Draw, Algorithm 1, sub-module 1). Works with any sampler but the cfg++ ones. "
        "For any model."
    )
    RETURN_TYPES = ("LATENT", "LATENT", "IMAGE")
    RETURN_NAMES = ("latent_a", "latent_b", "image")
    OUTPUT_TOOLTIPS = (
        "The picture in model A's latent space.",
        "The picture in model B's latent space, finished by model B.",
        "Model A's picture, decoded.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "noise": (
                    "NOISE",
                    {"tooltip": "The noise of both models. Where the latents' shapes differ, model B gets the noise of seed + 1."},
                ),
                "sampler": ("SAMPLER", {"tooltip": "The sampling method. Both latents take each step together."}),
                "sigmas": (
                    "SIGMAS",
                    {"tooltip": "The noise levels of the steps, for model A. Model B works at the same ratio of picture to noise."},
                ),
                "latent_a": ("LATENT", {"tooltip": "The latent that model A starts from."}),
                **_pair(),
            },
            "optional": _options(),
        }

    def execute(
        self, noise: Any, sampler: Any, sigmas: Tensor, latent_a: Latent, latent_b: Latent | None = None, **pair: Any
    ) -> tuple[Latent, Latent, Tensor]:
        from ..core.bridge.frames import as_image, decode_frames
        from ..core.bridge.joint import sample_bridged

        a, b = sample_bridged(_guider(pair), noise, sampler, sigmas, latent_a, latent_b)
        return a, b, as_image(decode_frames(pair["vae_a"], a["samples"]))


class LatentSpaceBridgeGuider:
    """The latent space bridge as a GUIDER, for SamplerCustomAdvanced."""

    DISPLAY_NAME = "Latent Space Bridge Guider"
    CATEGORY = "RapidDraw/bridge"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = (
        "two models", "different vae", "sd15 with sdxl", "mix models", "combine models", "two controlnets", "composable diffusion",
        "guider",
    )  # fmt: skip
    DESCRIPTION = (
        "Lets two models draw one picture, for SamplerCustomAdvanced: the same as Latent Space Bridge Sampler (Coop-Diffusion of "
        "PanGu-Draw, Algorithm 1, sub-module 1). Link model A's latent and noise to the sampler. Previews and denoised_output show model "
        "A's picture; model B's latent stays inside. Sampling must start from noise; for sampling in parts use Latent Space Bridge "
        "Sampler. "
        "For any model."
    )
    RETURN_TYPES = ("GUIDER",)
    RETURN_NAMES = ("guider",)
    OUTPUT_TOOLTIPS = ("Model A guided by both models, for SamplerCustomAdvanced.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": _pair(), "optional": _options()}

    def execute(self, **pair: Any) -> tuple[Any]:
        return (_guider(pair),)


NODE_CLASS_MAPPINGS = {
    "RapidDrawLatentSpaceBridgeSampler": LatentSpaceBridgeSampler,
    "RapidDrawLatentSpaceBridgeGuider": LatentSpaceBridgeGuider,
}
