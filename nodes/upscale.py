"""ESRGAN: loading an upscaler, and enlarging pictures in tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import content_of

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs


class ESRGANLoader:
    """Loads an ESRGAN upscaler as a native UPSCALE_MODEL."""

    DISPLAY_NAME = "Load ESRGAN Upscaler"
    CATEGORY = "RapidDraw/loaders"
    DESCRIPTION = (
        "Loads an ESRGAN network (Wang et al. 2018), from a bundle of this project or from a plain .safetensors or .pth in any of the "
        "three key layouts that exist. Its size, scale and channels are read off the weights. A .pth is never unpickled freely."
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
                    {"tooltip": "An upscaler in a weights folder. orchard-esrgan-x4 is trained on this project's own pictures."},
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, model_name: str | None = None, **_: Any) -> str:
        return content_of(upscaler=model_name)

    def execute(self, model_name: str) -> tuple[Any]:
        from ..core.host import current
        from ..core.upscale.find import resolve_upscaler

        return (current().load_upscaler(resolve_upscaler(model_name)),)


class ESRGANUpscale:
    """Enlarges pictures with an upscaler, to a factor or to a size, in tiles that leave no seam."""

    DISPLAY_NAME = "ESRGAN Upscale"
    CATEGORY = "RapidDraw/image"
    DESCRIPTION = (
        "Enlarges pictures with an upscale model: any size, with or without an alpha channel, in feathered tiles, with one progress bar "
        "for all of them. Where memory runs out the tiles become smaller and the work goes on. The result is resampled (Lanczos) to the "
        "factor or the size you ask for. Rapid Diffusion goes from 256 to 1024 pixels this way, in one pass."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The enlarged pictures, values in 0 to 1.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "upscale_model": ("UPSCALE_MODEL", {"tooltip": "From Load ESRGAN Upscaler, or from the stock Load Upscale Model."}),
                "image": ("IMAGE", {"tooltip": "Pictures to enlarge. Alpha, where there is one, is enlarged as a picture of its own."}),
                "factor": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 16.0,
                        "step": 0.25,
                        "tooltip": "How many times larger, along each side. 0 is the model's own factor (the paper's is 4). "
                        "The model runs once; the rest of the way is resampling.",
                    },
                ),
                "long_side": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 16384,
                        "step": 8,
                        "tooltip": "Length of the result's longer side in pixels, keeping its shape. 0 leaves it to factor; anything else "
                        "is used instead of it.",
                    },
                ),
                "tile": (
                    "INT",
                    {
                        "default": 512,
                        "min": 32,
                        "max": 8192,
                        "step": 32,
                        "tooltip": "Side of a tile in pixels of the input. Smaller needs less memory and takes a little longer.",
                    },
                ),
                "overlap": (
                    "INT",
                    {
                        "default": 32,
                        "min": 0,
                        "max": 1024,
                        "step": 8,
                        "tooltip": "What neighbouring tiles share, in pixels of the input; at most half a tile. Their edges are dropped, "
                        "the rest is blended. 32 leaves no seam; less is faster and may show one.",
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
                        "tooltip": "Tiles computed at once. 0: as many as fit into a GPU's memory, one on a CPU, where more are no faster.",
                    },
                ),
                "precision": (
                    ["keep", "auto"],
                    {
                        "default": "keep",
                        "tooltip": "auto: most of an ESRGAN's products in bf16, where a sample shows that this is faster and moves no "
                        "pixel by more than 1/255. keep: the same pixels everywhere.",
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
        from ..core.upscale.tiles import upscale

        target = {"long_side": long_side} if long_side else {"factor": factor or None}
        device = current().upscale_device(upscale_model, tile)
        return (upscale(upscale_model, image, tile=tile, overlap=overlap, device=device, batch=batch, precision=precision, **target),)


NODE_CLASS_MAPPINGS = {"RapidDrawESRGANLoader": ESRGANLoader, "RapidDrawESRGANUpscale": ESRGANUpscale}
