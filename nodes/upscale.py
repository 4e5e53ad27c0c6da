"""Nodes that load an ESRGAN upscaler and enlarge pictures in tiles (Rapid Diffusion, section 3.1.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import content_of
from .works_with import PICTURES

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs


class ESRGANLoader:
    """An ESRGAN upscaler as a native UPSCALE_MODEL."""

    DISPLAY_NAME = "Load ESRGAN Upscaler"
    CATEGORY = "RapidDraw/loaders"
    WORKS_WITH = PICTURES
    SEARCH_ALIASES = ("load upscale model", "upscaler", "real-esrgan", "realesrgan", "upscayl", "ncnn", "4x", "super resolution")
    DESCRIPTION = (
        "Loads a network that makes pictures larger and sharper: an ESRGAN (Wang et al. 2018) from a bundle, from a plain .safetensors or "
        ".pth file in any of the three known key layouts, or from the .param and .bin files of Real-ESRGAN ncnn and Upscayl. Size, scale "
        "and channels come from the shapes of the weights. A .pth is read as plain tensors; no code in it runs."
    )
    RETURN_TYPES = ("UPSCALE_MODEL",)
    RETURN_NAMES = ("upscale_model",)
    OUTPUT_TOOLTIPS = ("For ESRGAN Upscale, and for the stock Upscale Image (using Model).",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.upscale.find import list_upscalers

        return {
            "required": {
                "model_name": (
                    list_upscalers() or ["(no upscaler found: train one or put it into weights/)"],
                    {
                        "tooltip": (
                            "An upscaler in a weights folder. orchard-esrgan-x4 is trained on this pack's own drawings, not on photographs."
                        )
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, model_name: str | None = None, **_: Any) -> str:
        return content_of(upscaler=model_name)

    def execute(self, model_name: str) -> tuple[Any]:
        from ..core.host import current
        from ..core.upscale.find import resolve_upscaler

        return (current().upscale.load(resolve_upscaler(model_name)),)


class ESRGANUpscale:
    """Pictures enlarged by an upscaler, to a factor or to a size, in tiles that overlap as far as its network needs."""

    DISPLAY_NAME = "ESRGAN Upscale"
    CATEGORY = "RapidDraw/image"
    WORKS_WITH = PICTURES
    SEARCH_ALIASES = (
        "upscale", "upscaler", "enlarge", "tiled upscale", "ultimate sd upscale", "real-esrgan", "4x", "super resolution", "sharpen",
        "bigger",
    )  # fmt: skip
    ESSENTIALS_CATEGORY = "Image Tools"
    DESCRIPTION = (
        "Brings pictures to the size you want: any size, with or without alpha, in tiles that overlap as far as the network needs. Where "
        "memory runs out, the tiles become smaller and the work goes on. The network runs once; Lanczos resampling does the rest. Rapid "
        "Diffusion goes from 256 to 1024 pixels in this way (section 3.1.3)."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The enlarged pictures, with values from 0 to 1.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "upscale_model": ("UPSCALE_MODEL", {"tooltip": "From Load ESRGAN Upscaler, or from the stock Load Upscale Model."}),
                "image": ("IMAGE", {"tooltip": "Pictures to enlarge. An alpha channel is enlarged as a picture of its own."}),
                "factor": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 16.0,
                        "step": 0.25,
                        "tooltip": "How many times larger each side becomes, 0 to 16. 0 is the model's own factor (4 in Rapid Diffusion). "
                        "The model runs once; resampling does the rest.",
                    },
                ),
                "long_side": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 16384,
                        "step": 8,
                        "tooltip": "Longer side of the result in pixels; the shape is kept. 0: factor decides. Any other value is used "
                        "instead of factor.",
                    },
                ),
                "tile": (
                    "INT",
                    {
                        "default": 512,
                        "min": 32,
                        "max": 8192,
                        "step": 32,
                        "tooltip": "Side of a tile, in pixels of the input. A smaller tile needs less memory and takes a little longer.",
                    },
                ),
                "overlap": (
                    "INT",
                    {
                        "default": 32,
                        "min": 0,
                        "max": 1024,
                        "step": 8,
                        "tooltip": "How many pixels of the input neighbouring tiles share at least, at most half a tile. Where the network "
                        "needs more to hide seams, more are shared (measured once for each network). If half a tile is too little, the "
                        "log says which seam is left. 0: nothing is shared, and seams show.",
                    },
                ),
            },
            "optional": {
                "batch": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 16,
                        "tooltip": (
                            "Tiles computed at once, 0 to 16. 0: as many as fit into a GPU's memory; one on a CPU, where more are "
                            "no faster."
                        ),
                    },
                ),
                "precision": (
                    ["keep", "auto"],
                    {
                        "default": "keep",
                        "tooltip": "auto: computes most of an ESRGAN in bf16, where a sample shows that this is faster and changes no "
                        "pixel by more than 1/255. keep: the same pixels on every machine.",
                    },
                ),
            },
        }

    def execute(
        self,
        upscale_model: Any,
        image: Tensor,
        factor: float,
        long_side: int,
        tile: int,
        overlap: int,
        batch: int = 0,
        precision: str = "keep",
    ) -> tuple[Tensor]:
        from ..core.host import current
        from ..core.upscale.resize import Target
        from ..core.upscale.tiles import Tiling, upscale

        target = Target(long_side=long_side) if long_side else Target(factor=factor or None)
        device = current().upscale.device_for(upscale_model, tile)
        return (upscale(upscale_model, image, target, Tiling(tile, overlap, batch), device=device, precision=precision),)


NODE_CLASS_MAPPINGS = {"RapidDrawESRGANLoader": ESRGANLoader, "RapidDrawESRGANUpscale": ESRGANUpscale}
