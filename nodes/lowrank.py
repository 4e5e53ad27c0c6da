"""Nodes that factor any MODEL, save it, and load it again (low-rank U-Nets: ELR-Diffusion, section 2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import bundle_choices, content_of
from .works_with import ANY_MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent

_TARGETS = ("attention", "feed_forward", "resnet", "projection", "modulation")


class LowRankUNETLoader:
    """A U-Net bundle, low-rank or dense, as a MODEL."""

    DISPLAY_NAME = "Load Low-Rank UNet"
    CATEGORY = "RapidDraw/low-rank"
    WORKS_WITH = "Every model that Save Low-Rank UNet or Distill UNet has saved, and low-rank bundles of this pack."
    SEARCH_ALIASES = ("load unet", "unet loader", "load diffusion model", "small model", "compressed model", "svd")
    DESCRIPTION = (
        "Loads a small, factored model of any family that Save Low-Rank UNet or Distill UNet wrote, or a U-Net bundle (a .safetensors file "
        "that says what it holds). Factored layers run as two thin layers and are never multiplied out; LoRAs and merges work on them as "
        "on dense weights (ELR-Diffusion, section 2.2)."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The diffusion model. Use it with the CLIP and VAE of the model that it was made from.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        tip = "A bundle of kind unet, in a weights folder or in rapiddraw/ of the output folder."
        return {"required": {"unet_name": (bundle_choices("unet"), {"tooltip": tip})}}

    @classmethod
    def IS_CHANGED(cls, unet_name: str | None = None, **_: Any) -> str:
        return content_of(unet=unet_name)

    def execute(self, unet_name: str) -> tuple[Any]:
        from ..core.bundles.find import resolve_bundle
        from ..core.host import current

        return (current().model.load(resolve_bundle(unet_name, "unet")),)


class FactorizeUNet:
    """MODEL in, a smaller MODEL out."""

    DISPLAY_NAME = "Factorize UNet (low-rank)"
    CATEGORY = "RapidDraw/low-rank"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("compress model", "smaller model", "shrink", "reduce vram", "vram", "low vram", "svd", "prune", "out of memory")
    DESCRIPTION = (
        "Makes any model smaller, and faster where its layers are large: each weight becomes two thin factors, by truncated SVD "
        "(ELR-Diffusion, section 2.2.1). The picture changes with the share that is cut, so compare before you keep the result. LoRAs and "
        "other patches are merged first; the model at the input is not changed. Quantized layers are left as they are."
    )
    RETURN_TYPES = ("MODEL", "STRING", "IMAGE")
    RETURN_NAMES = ("model", "report", "plot")
    OUTPUT_TOOLTIPS = (
        "The low-rank model. LoRAs and merges work on it; the model at the input is not changed.",
        "Parameters, bytes, multiply-adds and step time before and after; then each layer's rank, its error, and the reason.",
        "The relative error of each layer's weight, as a plot.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        value_tip = (
            "param_ratio: share of the network's parameters that is left (ELR-Diffusion, Table 1: 790 of 1290 million, 0.61). energy: "
            "share of each weight's squared norm that is kept. rank: one rank for all layers. Higher keeps more of the model."
        )
        split_tip = (
            "Where the singular values go. paper: all into the factor of the output side (ELR-Diffusion, section 2.2.1). "
            "symmetric: half into each factor, which trains better."
        )
        latency_tip = (
            "Keeps a layer dense where its factors would not be faster. off: factors every layer. count: judges by multiply-adds. "
            "measure: times each layer on this device, at the size of latent."
        )
        model_tip = (
            "Any model: SD 1.5, SDXL, Flux, Qwen-Image, Z-Image, Wan, a bundle. Quantized layers (fp8, int8, nvfp4) stay as they are."
        )
        mode_tip = "How the rank of each layer is chosen."
        modulation_tip = (
            "Factor the layers that turn the noise level into scales and shifts: up to a third of the weights of a transformer such as "
            "Flux or Qwen-Image. On reaches smaller models; compare the pictures."
        )
        positive_tip = (
            "A prompt to measure with, from CLIP Text Encode. Only used together with latent. U-Nets do without; other models need one."
        )
        on = {"default": True}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": model_tip}),
                "mode": (["param_ratio", "energy", "rank"], {"default": "param_ratio", "tooltip": mode_tip}),
                "value": ("FLOAT", {"default": 0.61, "min": 0.01, "max": 10000.0, "step": 0.01, "tooltip": value_tip}),
                "split": (["paper", "symmetric"], {"default": "paper", "tooltip": split_tip}),
                "latency": (["off", "count", "measure"], {"default": "off", "tooltip": latency_tip}),
                "attention": ("BOOLEAN", {**on, "tooltip": "Factor the query, key, value and output layers of attention, fused ones too."}),
                "feed_forward": ("BOOLEAN", {**on, "tooltip": "Factor the feed-forward layers of the transformers."}),
                "resnet": ("BOOLEAN", {**on, "tooltip": "Factor the 3 x 3 convolutions of the residual blocks of a U-Net."}),
                "projection": ("BOOLEAN", {**on, "tooltip": "Factor the projections into and out of the transformers of a U-Net."}),
            },
            "optional": {
                "latent": ("LATENT", {"tooltip": "The size to measure at. With it the report gives multiply-adds and step times."}),
                "modulation": ("BOOLEAN", {"default": False, "tooltip": modulation_tip}),
                "positive": ("CONDITIONING", {"tooltip": positive_tip}),
            },
        }

    def execute(
        self,
        model: Any,
        mode: str,
        value: float,
        split: str,
        latency: str,
        attention: bool,
        feed_forward: bool,
        resnet: bool,
        projection: bool,
        latent: Latent | None = None,
        modulation: bool = False,
        positive: Any = None,
    ) -> tuple[Any, str, Tensor]:
        from ..core.lowrank.savings import draw_report
        from ..core.operations.factorize import factorize_model

        switches = (attention, feed_forward, resnet, projection, modulation)
        chosen = [name for name, on in zip(_TARGETS, switches, strict=True) if on]
        low, report = factorize_model(model, mode, value, chosen, split, latency, latent, positive)
        return low, report.table(), draw_report(report)


class SaveLowRankUNet:
    """A MODEL's U-Net as a bundle on disk."""

    DISPLAY_NAME = "Save Low-Rank UNet"
    CATEGORY = "RapidDraw/low-rank"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("save model", "export model", "save unet", "merge lora into model", "save checkpoint")
    DESCRIPTION = (
        "Keeps any model on disk: writes its network, with its LoRAs merged in, as a bundle that Load Low-Rank UNet reads. This pack's "
        "models load everywhere; a model from ComfyUI's own loaders loads in ComfyUI only."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("unet_name",)
    OUTPUT_TOOLTIPS = ("The file's name for Load Low-Rank UNet.",)
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        name_tip = "The file to write, in rapiddraw/ of the output folder. A U-Net of the same name is replaced."
        dense_tip = "Multiplies the factors out and saves a dense model, which is larger."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "Any model, factored or dense."}),
                "filename": ("STRING", {"default": "low-rank-unet", "tooltip": name_tip}),
                "as_dense": ("BOOLEAN", {"default": False, "tooltip": dense_tip}),
            }
        }

    def execute(self, model: Any, filename: str, as_dense: bool) -> dict[str, Any]:
        from ..core.operations.factorize import save_model

        path = save_model(model, filename, as_dense)
        return {"ui": {"text": [f"saved {path.name}"]}, "result": (path.name,)}


NODE_CLASS_MAPPINGS = {
    "RapidDrawLowRankUNETLoader": LowRankUNETLoader,
    "RapidDrawFactorizeUNet": FactorizeUNet,
    "RapidDrawSaveLowRankUNet": SaveLowRankUNet,
}
