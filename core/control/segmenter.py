"""Small segmenter: it says which class each pixel of a picture shows. The Orchard has exact maps; this is for all other pictures.

The network is a U-Net of two convolutions a level (Ronneberger et al. 2015), without attention, at one fixed side. As a picture, a
segmentation map shows each class in a colour of :data:`PALETTE`. The colours are corners of the RGB cube, so a map survives lossy
compression and its channels are as good as one-hot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..bundles.format import Bundle, BundleInfo
from ..bundles.load import load_bundle
from ..errors import BundleError, InputError

PALETTE = ((0, 0, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1))
"""Colours of classes 0, 1, 2 ... In the Orchard: sky black, ground blue, fruit red, topper green."""
ORCHARD_CLASSES = ("sky", "ground", "fruit", "topper")


class Segmenter(nn.Module):
    """Segmenter: pictures (B, 3, H, W) in [-1, 1] to logits (B, classes, H, W). `operations` is where layers come from, as in ComfyUI."""

    def __init__(
        self, classes: tuple[str, ...] = ORCHARD_CLASSES, size: int = 128, widths: tuple[int, ...] = (16, 32, 48, 64), operations: Any = nn
    ) -> None:
        super().__init__()
        if not (2 <= len(classes) <= len(PALETTE) and 1 <= len(widths) <= 8 and all(1 <= w <= 1024 for w in widths)):
            raise InputError(f"segmenter: {len(classes)} classes, widths={widths}: expected 2 to {len(PALETTE)} classes, 1 to 8 widths")
        if not 8 <= size <= 1024 or size % 2 ** (len(widths) - 1):
            raise InputError(f"segmenter: size={size} must be 8 to 1024 and a multiple of {2 ** (len(widths) - 1)}")
        self.classes, self.size, self.widths = tuple(classes), size, tuple(widths)
        ins = [3, *widths[:-1]]
        self.down = nn.ModuleList(_block(i, o, operations) for i, o in zip(ins, widths, strict=True))
        self.up = nn.ModuleList(_block(deep + skip, skip, operations) for skip, deep in zip(widths[:-1], widths[1:], strict=True))
        self.head = operations.Conv2d(widths[0], len(classes), 1)

    def forward(self, pictures: Tensor) -> Tensor:
        shape = pictures.shape[-2:]
        square = (self.size, self.size)
        x = pictures if shape == square else functional.interpolate(pictures, square, mode="bilinear", antialias=True, align_corners=False)
        skips = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = self.up[level](torch.cat([x, skips[level]], dim=1))
        logits = self.head(x)
        return logits if shape == square else functional.interpolate(logits, shape, mode="bilinear", align_corners=False)


def _block(before: int, after: int, operations: Any) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [operations.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


@torch.no_grad()
def segment(segmenter: Segmenter, pictures: Tensor, batch: int = 32) -> Tensor:
    """Return the classes (B, H, W) int64 of pictures (B, 3, H, W) in [-1, 1], at the pictures' own size."""
    return torch.cat([segmenter(part).argmax(1) for part in pictures.split(batch)])


def classes_to_image(classes: Tensor) -> Tensor:
    """Return a segmentation map (..., H, W) of classes as a picture (..., H, W, 3) in [0, 1]."""
    return torch.tensor(PALETTE, dtype=torch.float32, device=classes.device)[classes.long().clamp(0, len(PALETTE) - 1)]


def image_to_classes(image: Tensor) -> Tensor:
    """Return the classes (..., H, W) whose colours are nearest to those of a picture (..., H, W, 3)."""
    palette = torch.tensor(PALETTE, dtype=torch.float32, device=image.device)
    return (image[..., None, :3].float() - palette).square().sum(-1).argmin(-1)


def to_bundle(segmenter: Segmenter, provenance: dict[str, Any]) -> tuple[dict[str, Tensor], BundleInfo]:
    """Return what :func:`~rapiddraw.core.bundles.format.save_bundle` writes (kind `segmenter`), in half precision."""
    config = {"classes": list(segmenter.classes), "size": segmenter.size, "widths": list(segmenter.widths)}
    tensors = {name: tensor.half() for name, tensor in segmenter.state_dict().items() if not name.endswith("num_batches_tracked")}
    return tensors, BundleInfo("segmenter", config, provenance=provenance)


def load_segmenter(path: str | Path) -> Segmenter:
    """Return the segmenter in a bundle of kind `segmenter`, in evaluation mode. Raises :class:`BundleError`."""
    return segmenter_from(load_bundle(path, "segmenter"))


def segmenter_from(bundle: Bundle) -> Segmenter:
    """Return the segmenter that `bundle` holds. Raises :class:`BundleError` where its config and its tensors do not fit."""
    name, config = bundle.info.path.name if bundle.info.path else "the segmenter bundle", bundle.info.config
    try:
        with torch.device("meta"):
            made = Segmenter(tuple(map(str, config["classes"])), int(config["size"]), tuple(map(int, config["widths"])))
        tensors = {key: tensor.float() for key, tensor in bundle.tensors.items()}
        counters = {key: torch.tensor(0) for key in made.state_dict() if key.endswith("num_batches_tracked")}
        made.load_state_dict(tensors | counters, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{name}: its config and its tensors do not make a segmenter ({error!s:.300})") from error
    return made.eval().requires_grad_(False)
