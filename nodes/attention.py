"""Nodes for faster attention (Rapid Diffusion, section 3.2.2), with a report of its calls, and for attention at other sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .works_with import ANY_MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent

_BACKENDS = (
    "auto", "default", "flash_attn_3", "flash_attn_2", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa_math", "xformers", "sage",
    "tiled",
)  # fmt: skip


class FlashAttentionPatch:
    """MODEL in, MODEL out: each attention call goes to the fastest kernel of this machine."""

    DISPLAY_NAME = "FlashAttention Patch"
    CATEGORY = "RapidDraw/attention"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("faster", "speed up", "sage attention", "xformers", "flash attention", "attention optimization", "slow")
    DESCRIPTION = (
        "Makes attention faster, with the same picture but for rounding. Each attention call goes to the fastest exact kernel of this "
        "machine; kernels are measured once for each shape, against ComfyUI's own, and the result is remembered (Rapid Diffusion, section "
        "3.2.2). "
        "For any model."
    )
    RETURN_TYPES = ("MODEL", "VAE")
    RETURN_NAMES = ("model", "vae")
    OUTPUT_TOOLTIPS = (
        "The model with faster attention; the model at the input is not changed. LoRA and ControlNet work as before.",
        "The VAE with faster attention, where a VAE with attention is linked.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        backend_tip = (
            "auto measures all kernels of this machine and keeps the fastest exact one, never one that is slower than the default. A name "
            "forces that kernel; calls that it cannot take (masks, head sizes, dtypes) run on the default. Where the kernel is not "
            "installed, the log warns and the default runs."
        )
        apply_tip = "Which calls: self (within the picture, most of the time), cross (from the picture to the prompt), or both."
        inexact_tip = "Also use kernels that round more, such as sage. Faster on a GPU; the picture changes a little."
        vae_tip = "In ComfyUI, the VAE's attention becomes faster too. A text encoder's attention takes too little time to matter."
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

        attention, patch = current().attention, AttentionPatch(backend, apply_to, allow_inexact)
        return attention.patch_model(model, patch), None if vae is None else attention.patch_vae(vae, patch)


class AttentionReport:
    """A report of the attention calls of a MODEL, after sampling."""

    DISPLAY_NAME = "Attention Report"
    CATEGORY = "RapidDraw/attention"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("which attention", "attention backend", "benchmark attention", "sage attention", "speed report")
    DESCRIPTION = (
        "Shows whether FlashAttention Patch helps: which kernel ran for which shape, how often, and how much faster than ComfyUI's own. "
        "Link the sampler's latent; the report is then written after sampling. "
        "For any model."
    )
    RETURN_TYPES = ("STRING", "LATENT")
    RETURN_NAMES = ("report", "latent")
    OUTPUT_TOOLTIPS = ("A table with one line for each shape and kernel; for Preview as Text.", "The latent, unchanged.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model from FlashAttention Patch that the sampler used."}),
                "latent": ("LATENT", {"tooltip": "The sampler's latent. The report is written when it is ready."}),
            },
            "optional": {"image": ("IMAGE", {"tooltip": "A decoded picture, so that the calls of a patched VAE count too."})},
        }

    def execute(self, model: Any, latent: Latent, image: Tensor | None = None) -> tuple[str, Latent]:
        from ..core.attention.chain import report_of

        return report_of(model), latent


class AttentionEntropyScale:
    """Self-attention that is as sharp at another picture size as at the size of training."""

    DISPLAY_NAME = "Attention Entropy Scale"
    CATEGORY = "RapidDraw/attention"
    WORKS_WITH = "SD 1.5, SD 2, SDXL and other U-Nets; Flux, Flux 2, Chroma, Qwen-Image, HunyuanImage and HunyuanVideo. Others are refused."
    SEARCH_ALIASES = ("larger resolution", "higher resolution", "blurry", "extrapolate resolution", "scalecrafter", "sharpen attention")
    DESCRIPTION = (
        "Keeps pictures sharp at another size than the model was trained at. With more tokens attention becomes flat; self-attention is "
        "sharpened by sqrt(log N / log N in training) at each level (Jin et al. 2023). At the size of training nothing changes. For "
        "U-Nets, and for Flux, Chroma, HunyuanVideo and Qwen-Image, whose picture tokens alone are sharpened; other models are refused."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The model with scaled self-attention; the model at the input is not changed. Works with FlashAttention Patch.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        side = {"default": 512, "min": 16, "max": 16384, "step": 8}
        width_tip = (
            "Width in pixels of the pictures in the model's training: 512 for SD 1.5, 1024 for SDXL, 128 for the shipped model. "
            "Smaller sharpens more."
        )
        return {
            "required": {
                "model": (
                    "MODEL",
                    {"tooltip": "A U-Net such as SD 1.5 or SDXL, or Flux, Chroma, HunyuanVideo or Qwen-Image."},
                ),
                "trained_width": ("INT", {**side, "tooltip": width_tip}),
                "trained_height": (
                    "INT",
                    {**side, "tooltip": "Height in pixels of the pictures in the model's training. Smaller sharpens more."},
                ),
            }
        }

    def execute(self, model: Any, trained_width: int, trained_height: int) -> tuple[Any]:
        from ..core.host import current

        return (current().attention.scale_entropy(model, trained_width, trained_height),)


NODE_CLASS_MAPPINGS = {
    "RapidDrawAttentionEntropyScale": AttentionEntropyScale,
    "RapidDrawFlashAttentionPatch": FlashAttentionPatch,
    "RapidDrawAttentionReport": AttentionReport,
}
