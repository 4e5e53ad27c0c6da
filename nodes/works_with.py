"""What a node works with, in words for its help page: a node with a socket for models says so in `WORKS_WITH`."""

from __future__ import annotations

ANY_MODEL = "Any model, for pictures or videos: SD 1.5, SDXL, Flux, Qwen-Image, Z-Image, Wan and all other families."
ANY_ENCODER = (
    "Text encoders of any family: CLIP, T5 and language models. Those of other models need a projection, from Fit Knowledge Projection."
)
ANY_SAMPLER = "Any model: it goes into SamplerCustom or SamplerCustomAdvanced."
NO_MODEL = "Any graph; it needs no model."
PICTURES = "Pictures from any model or file."
OWN = "Bundles of this pack: the shipped ones and those that you train with it. For other files use ComfyUI's own loaders."
MODEL_SOCKETS = frozenset({"MODEL", "CLIP", "VAE", "CONDITIONING", "GUIDER", "SAMPLER", "LATENT", "SIGMAS", "CONTROL_NET", "UPSCALE_MODEL"})
"""Sockets of a node that must say what it works with."""
