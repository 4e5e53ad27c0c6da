"""Stock nodes that change pictures: ImageScale, ImageBatch, ImageStitch, and upscaling with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...bundles.find import list_bundles, resolve_bundle
from ...errors import InputError
from ...paths import file_sha256
from .conditioning import MAX_RESOLUTION

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
_COLOURS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


def resize_image(image: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """Return an IMAGE (B, H, W, C) at `width` x `height`. `crop="center"` cuts it to the new aspect ratio first instead of squeezing it.

    lanczos goes through 8 bits (PIL), as in ComfyUI. Raises :class:`InputError` for a size outside 1..16384 or an unknown method.
    """
    from torch.nn import functional

    if method not in METHODS or not 1 <= width <= MAX_RESOLUTION or not 1 <= height <= MAX_RESOLUTION:
        raise InputError(
            f"cannot scale to {width} x {height} by {method!r}: sizes run from 1 to {MAX_RESOLUTION}, methods are {', '.join(METHODS)}"
        )
    if crop == "center":
        image = _crop_to_aspect(image, width / height)
    if method == "lanczos":
        return _lanczos(image, width, height)
    return functional.interpolate(image.movedim(-1, 1), size=(height, width), mode=method).movedim(1, -1)


def _crop_to_aspect(image: Tensor, aspect: float) -> Tensor:
    height, width = image.shape[1:3]
    x = round((width - height * aspect) / 2) if width / height > aspect else 0
    y = round((height - width / aspect) / 2) if width / height < aspect else 0
    return image[:, y : height - y, x : width - x]


def _lanczos(image: Tensor, width: int, height: int) -> Tensor:
    import numpy as np
    import torch
    from PIL import Image

    out = []
    for one in image:
        pixels = np.clip(one.cpu().numpy() * 255.0, 0, 255).astype(np.uint8)
        grey = pixels.shape[-1] == 1
        small = Image.fromarray(pixels[..., 0] if grey else pixels).resize((width, height), Image.Resampling.LANCZOS)
        scaled = torch.from_numpy(np.array(small, dtype=np.float32) / 255)
        out.append(scaled[..., None] if grey else scaled)
    return torch.stack(out).to(image)


def match_channels(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Give the image with fewer channels opaque (1.0) ones."""
    from torch.nn import functional

    most = max(first.shape[-1], second.shape[-1])
    padded = [functional.pad(image, (0, most - image.shape[-1]), value=1.0) for image in (first, second)]
    return padded[0], padded[1]


class EmptyImage:
    DISPLAY_NAME = "Empty Image"
    CATEGORY = "image"
    DESCRIPTION = "Pictures of one colour."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = {"default": 512, "min": 1, "max": MAX_RESOLUTION, "step": 1}
        colour = {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}
        return {
            "required": {
                "width": ("INT", {**side, "tooltip": "Width in pixels."}),
                "height": ("INT", {**side, "tooltip": "Height in pixels."}),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096, "tooltip": "How many pictures."}),
                "color": ("INT", {**colour, "tooltip": "The colour as one number, 0xRRGGBB."}),
            }
        }

    def generate(self, width: int, height: int, batch_size: int = 1, color: int = 0) -> tuple[Tensor]:
        import torch

        if not (0 < width <= MAX_RESOLUTION and 0 < height <= MAX_RESOLUTION and 0 < batch_size <= 4096):
            raise InputError(f"{batch_size} pictures of {width} x {height} were asked for; at most 4096 of {MAX_RESOLUTION} pixels a side")
        colour = torch.tensor([(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)])
        return (colour.expand(batch_size, height, width, 3).clone(),)


class ImageScale:
    DISPLAY_NAME = "Upscale Image"
    CATEGORY = "image/upscaling"
    DESCRIPTION = "Scales pictures to a size. A side of 0 follows from the other."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = {"default": 512, "min": 0, "max": MAX_RESOLUTION, "step": 1}
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The pictures to scale."}),
                "upscale_method": (METHODS, {"tooltip": "How new pixels are made."}),
                "width": ("INT", {**side, "tooltip": "New width; 0 keeps the aspect ratio."}),
                "height": ("INT", {**side, "tooltip": "New height; 0 keeps the aspect ratio."}),
                "crop": (["disabled", "center"], {"tooltip": "center cuts to the new aspect ratio instead of squeezing."}),
            }
        }

    def upscale(self, image: Tensor, upscale_method: str, width: int, height: int, crop: str) -> tuple[Tensor]:
        if width == 0 and height == 0:
            return (image,)
        old_height, old_width = image.shape[1:3]
        width = width or max(1, round(old_width * height / old_height))
        height = height or max(1, round(old_height * width / old_width))
        return (resize_image(image, width, height, upscale_method, crop),)


class ImageBatch:
    DISPLAY_NAME = "Batch Images"
    CATEGORY = "image"
    DESCRIPTION = "Two batches of pictures as one; the second is scaled and cut to the first one's size."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "batch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image1": ("IMAGE", {"tooltip": "The first pictures; they give the size."}),
                "image2": ("IMAGE", {"tooltip": "The pictures that follow."}),
            }
        }

    def batch(self, image1: Tensor, image2: Tensor) -> tuple[Tensor]:
        import torch

        image1, image2 = match_channels(image1, image2)
        if image1.shape[1:] != image2.shape[1:]:
            image2 = resize_image(image2, image1.shape[2], image1.shape[1], "bilinear", "center")
        return (torch.cat([image1, image2]),)


class ImageStitch:
    DISPLAY_NAME = "Image Stitch"
    CATEGORY = "image/transform"
    DESCRIPTION = "Puts image2 beside image1, with an optional gap. Without image2, image1 comes back."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "stitch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image1": ("IMAGE", {"tooltip": "The first picture."}),
                "direction": (["right", "down", "left", "up"], {"default": "right", "tooltip": "Where image2 goes."}),
                "match_image_size": ("BOOLEAN", {"default": True, "tooltip": "Scale image2 to the side it shares with image1."}),
                "spacing_width": ("INT", {"default": 0, "min": 0, "max": 1024, "step": 2, "advanced": True, "tooltip": "Gap in pixels."}),
                "spacing_color": (list(_COLOURS), {"default": "white", "advanced": True, "tooltip": "Colour of the gap."}),
            },
            "optional": {"image2": ("IMAGE", {"tooltip": "The second picture."})},
        }

    def stitch(
        self,
        image1: Tensor,
        direction: str,
        match_image_size: bool,
        spacing_width: int,
        spacing_color: str,
        image2: Tensor | None = None,
    ) -> tuple[Tensor]:
        import torch

        if image2 is None:
            return (image1,)
        if direction not in ("right", "down", "left", "up") or spacing_color not in _COLOURS or not 0 <= spacing_width <= 1024:
            raise InputError(f"cannot stitch: direction={direction!r}, spacing_width={spacing_width}, spacing_color={spacing_color!r}")
        along = 2 if direction in ("right", "left") else 1
        batch = max(len(image1), len(image2))
        image1, image2 = (torch.cat([image, image[-1:].repeat(batch - len(image), 1, 1, 1)]) for image in (image1, image2))
        if match_image_size:
            image2 = self._match(image1, image2, along)
        else:
            colour = _COLOURS[spacing_color]
            value = colour[0] if len(set(colour)) == 1 else 0.0
            image1, image2 = self._pad(image1, image2, 3 - along, value)
        image1, image2 = match_channels(image1, image2)
        parts = [image1, image2] if direction in ("right", "down") else [image2, image1]
        if spacing_width:
            shape = list(image1.shape)
            shape[along] = spacing_width + spacing_width % 2
            colour_row = [*_COLOURS[spacing_color], 1.0][: shape[3]]
            parts.insert(1, torch.tensor(colour_row, dtype=image1.dtype).expand(shape))
        return (torch.cat(parts, dim=along),)

    @staticmethod
    def _match(image1: Tensor, image2: Tensor, along: int) -> Tensor:
        (h1, w1), (h2, w2) = image1.shape[1:3], image2.shape[1:3]
        aspect = w2 / h2
        width, height = (int(h1 * aspect), h1) if along == 2 else (w1, int(w1 / aspect))
        return resize_image(image2, width, height, "lanczos")

    @staticmethod
    def _pad(image1: Tensor, image2: Tensor, across: int, value: float) -> tuple[Tensor, Tensor]:
        """Centre the smaller image in the side they share."""
        from torch.nn import functional

        most = max(image1.shape[across], image2.shape[across])
        padded = []
        for image in (image1, image2):
            room = most - image.shape[across]
            sides = (room // 2, room - room // 2)
            padded.append(functional.pad(image, (0, 0, 0, 0, *sides) if across == 1 else (0, 0, *sides), value=value))
        return padded[0], padded[1]


class UpscaleModelLoader:
    DISPLAY_NAME = "Load Upscale Model"
    CATEGORY = "loaders"
    DESCRIPTION = "Loads an upscaling network."
    RETURN_TYPES = ("UPSCALE_MODEL",)
    FUNCTION = "load_model"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model_name": (list_bundles("esrgan"), {"tooltip": "An ESRGAN bundle."})}}

    def load_model(self, model_name: str) -> tuple[Any]:
        from ...host import current

        return (current().upscale.load(resolve_bundle(model_name, "esrgan")),)

    @classmethod
    def IS_CHANGED(cls, model_name: str) -> str:
        return file_sha256(resolve_bundle(model_name, "esrgan"))


class ImageUpscaleWithModel:
    DISPLAY_NAME = "Upscale Image (using Model)"
    CATEGORY = "image/upscaling"
    DESCRIPTION = "Enlarges pictures with an upscaling network, in tiles of 512 pixels."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "upscale_model": ("UPSCALE_MODEL", {"tooltip": "The network."}),
                "image": ("IMAGE", {"tooltip": "The pictures to enlarge."}),
            }
        }

    def upscale(self, upscale_model: Any, image: Tensor) -> tuple[Tensor]:
        from ...upscale.tiles import upscale

        return (upscale(upscale_model, image[..., :3]),)


NODES = [EmptyImage, ImageScale, ImageBatch, ImageStitch, UpscaleModelLoader, ImageUpscaleWithModel]
