"""Low-rank U-Nets (ELR-Diffusion): factor any MODEL, save it, load it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import bundle_choices, content_of

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent

_TARGETS = ("attention", "feed_forward", "resnet", "projection")


class LowRankUNETLoader:
    """A U-Net bundle, low-rank or dense, as a MODEL."""

    DISPLAY_NAME = "Load Low-Rank UNet"
    CATEGORY = "RapidDraw/low-rank"
    DESCRIPTION = (
        "Loads a U-Net on its own: one that Save Low-Rank UNet wrote, or any other U-Net bundle. Factored layers stay factored: they are "
        "computed as two thin layers and never multiplied out. LoRAs and merges work on them as on dense weights."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The diffusion model. Use the CLIP and VAE of the model it was made from.",)
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

        return (current().load_unet(resolve_bundle(unet_name, "unet")),)


class FactorizeUNet:
    """MODEL in, a smaller MODEL out."""

    DISPLAY_NAME = "Factorize UNet (low-rank)"
    CATEGORY = "RapidDraw/low-rank"
    DESCRIPTION = (
        "Replaces the weights of a U-Net by two thin factors each, by truncated SVD. Fewer parameters, and faster where the layers are "
        "large. The picture changes with what is left out: compare before you keep it. Patches on the "
        "model, such as LoRAs, are merged in first; the model that came in stays as it is."
    )
    RETURN_TYPES = ("MODEL", "STRING", "IMAGE")
    RETURN_NAMES = ("model", "report", "plot")
    OUTPUT_TOOLTIPS = (
        "The low-rank model. LoRAs and merges work on it.",
        "Parameters, bytes, multiply-adds and step time before and after; for each layer its rank, its error and why.",
        "The relative error of each layer's weight.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        value_tip = (
            "param_ratio: share of the whole U-Net's parameters that is left (the paper: 0.61). energy: share of each weight's squared "
            "norm to keep. rank: one rank for all layers."
        )
        split_tip = "Where the singular values go: all to the output side (paper), or half to each, which trains better (symmetric)."
        latency_tip = (
            "Keeps a layer dense where its factors would not be faster: count judges by multiply-adds, measure times each layer on this "
            "device at the latent's size."
        )
        mode_tip = "How the rank of a layer is chosen."
        on = {"default": True}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "Any U-Net model: a bundle, SD 1.5, SDXL."}),
                "mode": (["param_ratio", "energy", "rank"], {"default": "param_ratio", "tooltip": mode_tip}),
                "value": ("FLOAT", {"default": 0.61, "min": 0.01, "max": 10000.0, "step": 0.01, "tooltip": value_tip}),
                "split": (["paper", "symmetric"], {"default": "paper", "tooltip": split_tip}),
                "latency": (["off", "count", "measure"], {"default": "off", "tooltip": latency_tip}),
                "attention": ("BOOLEAN", {**on, "tooltip": "Factor the projections of self- and cross-attention."}),
                "feed_forward": ("BOOLEAN", {**on, "tooltip": "Factor the feed-forward layers of the transformers."}),
                "resnet": ("BOOLEAN", {**on, "tooltip": "Factor the 3 x 3 convolutions of the residual blocks."}),
                "projection": ("BOOLEAN", {**on, "tooltip": "Factor the projections into and out of the transformers."}),
            },
            "optional": {
                "latent": ("LATENT", {"tooltip": "The size to measure at; with it the report has multiply-adds and step times."}),
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
    ) -> tuple[Any, str, Tensor]:
        from ..core.lowrank.savings import draw_report
        from ..core.operations.factorize import factorize_model

        chosen = [name for name, on in zip(_TARGETS, (attention, feed_forward, resnet, projection), strict=True) if on]
        low, report = factorize_model(model, mode, value, chosen, split, latency, latent)
        return low, report.table(), draw_report(report)


class SaveLowRankUNet:
    """A MODEL's U-Net as a bundle on disk."""

    DISPLAY_NAME = "Save Low-Rank UNet"
    CATEGORY = "RapidDraw/low-rank"
    DESCRIPTION = (
        "Writes the U-Net of a model, with its LoRAs merged in, as a bundle that Load Low-Rank UNet reads. Our own models load everywhere; "
        "one that came from ComfyUI's Load Checkpoint loads in ComfyUI."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("unet_name",)
    OUTPUT_TOOLTIPS = ("The file's name for Load Low-Rank UNet.",)
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        name_tip = "The file to write, in rapiddraw/ of the output folder; a U-Net of that name is replaced."
        dense_tip = "Multiply the factors out and save a dense model."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model whose U-Net is saved, factored or not."}),
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
