"""Faster attention (Rapid Diffusion, section 3.2.2), and a report of what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent

_BACKENDS = (
    "auto", "default", "flash_attn_3", "flash_attn_2", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa_math", "xformers", "sage",
    "tiled",
)  # fmt: skip


class FlashAttentionPatch:
    """MODEL in, MODEL out: every attention call goes to the fastest kernel that this machine has for it."""

    DISPLAY_NAME = "FlashAttention Patch"
    CATEGORY = "RapidDraw/attention"
    DESCRIPTION = (
        "Sends each attention call of a MODEL to the kernel that is fastest for it on this machine. Kernels are measured once for each "
        "shape, against what ComfyUI would use, and remembered; the picture is the same but for rounding."
    )
    RETURN_TYPES = ("MODEL", "VAE")
    RETURN_NAMES = ("model", "vae")
    OUTPUT_TOOLTIPS = (
        "The patched model; the one given stays as it was. LoRA and ControlNet work on it as before.",
        "The VAE with its attention patched, where one was linked and it has attention.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        backend_tip = (
            "auto measures all that are here and keeps the fastest exact one, never one slower than the default. A name forces one; "
            "calls it cannot take (masks, head sizes, dtypes) run on the default. Not installed: a warning, and the default."
        )
        apply_tip = "Which calls: self-attention (the picture looks at itself; most of the time), cross-attention (at the prompt), or both."
        inexact_tip = "Let kernels take part that round on purpose, such as sage: faster on a GPU, and the picture changes a little."
        vae_tip = "Its attention over pixels is patched too, in ComfyUI. A text encoder has none worth patching."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The diffusion model to speed up."}),
                "backend": (list(_BACKENDS), {"default": "auto", "tooltip": backend_tip}),
                "apply_to": (["both", "self", "cross"], {"default": "both", "tooltip": apply_tip}),
                "allow_inexact": ("BOOLEAN", {"default": False, "tooltip": inexact_tip}),
            },
            "optional": {"vae": ("VAE", {"tooltip": vae_tip})},
        }

    def execute(self, model: Any, backend: str, apply_to: str, allow_inexact: bool, vae: Any = None) -> tuple[Any, Any]:
        from ..core.attention.patch import AttentionPatch
        from ..core.host import current

        return current().patch_attention(model, vae, AttentionPatch(backend, apply_to, allow_inexact))


class AttentionReport:
    """What the attention patches of a MODEL did, after sampling."""

    DISPLAY_NAME = "Attention Report"
    CATEGORY = "RapidDraw/attention"
    DESCRIPTION = (
        "Says which attention kernel ran where, how often, and how much faster than ComfyUI's own it was when they were measured against "
        "each other. Link what the sampler made, so that it runs afterwards."
    )
    RETURN_TYPES = ("STRING", "LATENT")
    RETURN_NAMES = ("report", "latent")
    OUTPUT_TOOLTIPS = ("A table with one line for each shape and kernel; for Preview as Text.", "The latent, as it was given.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The patched model that the sampler used."}),
                "latent": ("LATENT", {"tooltip": "What the sampler made: the report is taken when it is there."}),
            },
            "optional": {"image": ("IMAGE", {"tooltip": "Wait for this picture too, to count a patched VAE's calls."})},
        }

    def execute(self, model: Any, latent: Latent, image: Tensor | None = None) -> tuple[str, Latent]:
        from ..core.attention.chain import report_of

        return report_of(model), latent


class AttentionEntropyScale:
    """Self-attention as sharp at any picture size as at the one of training."""

    DISPLAY_NAME = "Attention Entropy Scale"
    CATEGORY = "RapidDraw/attention"
    DESCRIPTION = (
        "For drawing at another size than a model was trained at: with more tokens a softmax grows flat, so self-attention is sharpened by "
        "sqrt(log N / log N in training), level by level (Jin et al. 2023). At the size of training nothing changes."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The model with scaled self-attention; the one given stays as it was. Works with FlashAttention Patch.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        side = {"default": 512, "min": 16, "max": 16384, "step": 8}
        width_tip = "Width in pixels of the pictures that the model was trained on: 512 for SD 1.5, 1024 for SDXL, 128 for the Orchard's."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A model with a U-Net of Stable Diffusion's kind; others are left as they are."}),
                "trained_width": ("INT", {**side, "tooltip": width_tip}),
                "trained_height": ("INT", {**side, "tooltip": "Height of those pictures."}),
            }
        }

    def execute(self, model: Any, trained_width: int, trained_height: int) -> tuple[Any]:
        from ..core.host import current

        return (current().scale_attention_entropy(model, trained_width, trained_height),)


NODE_CLASS_MAPPINGS = {
    "RapidDrawAttentionEntropyScale": AttentionEntropyScale,
    "RapidDrawFlashAttentionPatch": FlashAttentionPatch,
    "RapidDrawAttentionReport": AttentionReport,
}
