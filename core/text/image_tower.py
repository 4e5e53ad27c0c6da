"""Small convolutional image tower: the picture's half of contrastive pre-training, and the image embedding of CLIP scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..bundles.format import Bundle, BundleInfo, halved
from ..errors import BundleError, InputError

DEFAULT_WIDTHS = (32, 64, 128, 192)


class ImageTower(nn.Module):
    """Image tower: images (B, 3, H, W) in [-1, 1] to unit vectors (B, projection_dim).

    Each width is one level that halves the side. The last map is flattened, not averaged, so that the vector also says *where* a thing is.
    Images of another side than `size` are resized first. `operations` is where layers come from, as in ComfyUI.
    """

    def __init__(self, size: int = 64, widths: tuple[int, ...] = DEFAULT_WIDTHS, projection_dim: int = 128, operations: Any = nn) -> None:
        super().__init__()
        if not (1 <= len(widths) <= 8 and all(1 <= w <= 2048 for w in widths) and 1 <= projection_dim <= 4096):
            raise InputError(f"image tower: widths={widths}, projection_dim={projection_dim} are out of range")
        if size % 2 ** len(widths) or not 8 <= size <= 512:
            raise InputError(f"image tower: size={size} must be 8 to 512 and a multiple of {2 ** len(widths)}")
        self.size, self.widths, self.projection_dim = size, tuple(widths), projection_dim
        layers: list[nn.Module] = []
        before = 3
        for level, width in enumerate(widths):
            layers += [operations.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if level:
                layers += [operations.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        self.features = nn.Sequential(*layers)
        self.projection = operations.Linear(before * (size >> len(widths)) ** 2, projection_dim)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.size, self.size):
            images = functional.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        return functional.normalize(self.projection(self.features(images).flatten(1)), dim=-1)


def to_bundle(tower: ImageTower, provenance: dict[str, Any] | None = None) -> tuple[dict[str, Tensor], BundleInfo]:
    """Return what :func:`~rapiddraw.core.bundles.format.save_bundle` writes for this tower (kind `image`), in fp16."""
    config = {"size": tower.size, "widths": list(tower.widths), "projection_dim": tower.projection_dim}
    return halved(tower.state_dict()), BundleInfo("image", config=config, provenance=provenance or {})


def load_image_tower(bundle: Bundle) -> ImageTower:
    """Return the tower in a bundle of kind `image`, in evaluation mode. Raises :class:`BundleError` where config and tensors disagree."""
    name = bundle.info.path.name if bundle.info.path else "image bundle"
    config = bundle.info.config
    try:
        with torch.device("meta"):
            tower = ImageTower(int(config["size"]), tuple(map(int, config["widths"])), int(config["projection_dim"]))
        tower.load_state_dict({key: t.float() if t.is_floating_point() else t for key, t in bundle.tensors.items()}, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{name}: its config and its tensors do not make an image tower ({error})") from error
    return tower.eval()
