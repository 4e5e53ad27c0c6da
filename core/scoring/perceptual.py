"""Perceptual distances: pictures compared in the feature maps of a network that knows pictures (ESRGAN, Wang et al. 2018, section 3.3).

ESRGAN compares the maps of VGG19 before the last activation. A user who has torchvision's VGG19 weights names their file. Without it the
convolutions of this pack's image tower take their place; they know the Orchard's drawings, not photographs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..bundles.find import resolve_bundle
from ..bundles.format import load_foreign
from ..bundles.load import load_bundle
from ..checkpoint.pickled import read_pickled
from ..errors import BundleError
from ..text.image_tower import load_image_tower
from .find import INCLUDED

_VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)
"""Channels of VGG19's convolutions up to conv5_4; 0 is a pooling. torchvision numbers a ReLU behind each convolution as well."""
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Perceptual(nn.Module):
    """Feature maps of pictures, frozen. `name` says of which network."""

    mean: Tensor
    spread: Tensor

    def __init__(self, name: str, body: nn.Module, mean: tuple[float, ...], spread: tuple[float, ...]) -> None:
        super().__init__()
        self.name, self.body = name, body.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(spread)[:, None, None], persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the maps (B, C, h, w) of pictures (B, 3, H, W) in [0, 1]."""
        maps: Tensor = self.body((pictures - self.mean) / self.spread)
        return maps

    def loss(self, made: Tensor, real: Tensor) -> Tensor:
        """Return the L1 between the maps of `made` and `real`, both (B, 3, H, W) in [0, 1]; gradients flow to `made` alone."""
        with torch.no_grad():
            wanted = self(real)
        return functional.l1_loss(self(made), wanted)

    @torch.no_grad()
    def distance(self, made: Tensor, real: Tensor) -> Tensor:
        """Return the distance (B,) of pictures: the mean squared difference of their maps, each place scaled to length 1. 0 for equal
        ones, at most 4. As LPIPS (Zhang et al. 2018) without its learned weights."""
        one, other = (functional.normalize(self(pictures), dim=1) for pictures in (made, real))
        return (one - other).square().sum(1).mean((1, 2))


def load_perceptual(path: str = "") -> Perceptual:
    """Return the network in `path`: VGG19 weights as torchvision names them (`.pth` or `.safetensors`), or a bundle of kind `image`; for
    "" the included image tower. Raises :class:`BundleError`, which names the file, for any other file."""
    if not path:
        return _tower(resolve_bundle(INCLUDED, "image"))
    file = Path(path)
    if not file.is_file():
        raise BundleError(f"no such file {path}: expected VGG19 weights or a bundle of kind image")
    tensors = read_pickled(file) if file.suffix.lower() in (".pth", ".pt") else load_foreign(file)
    if not isinstance(tensors, dict) or "features.34.weight" not in tensors:
        return _tower(file)
    return _vgg19(file, tensors)


def _tower(path: Path) -> Perceptual:
    return Perceptual("image tower", load_image_tower(load_bundle(path, "image")).features, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _vgg19(path: Path, tensors: dict[str, Tensor], operations: Any = nn) -> Perceptual:
    layers: list[nn.Module] = []
    before = 3
    with torch.device("meta"):
        for channels in _VGG19:
            layers += [nn.MaxPool2d(2)] if not channels else [operations.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels or before
    body = nn.Sequential(*layers[:-1])  # the last map is taken before its activation
    wanted = {key: tensors.get(f"features.{key}") for key in body.state_dict()}
    try:
        body.load_state_dict({key: tensor.float() for key, tensor in wanted.items() if tensor is not None}, assign=True)
    except RuntimeError as error:
        raise BundleError(f"{path.name}: its weights are not VGG19's ({str(error).splitlines()[-1].strip()[:200]})") from error
    if not all(bool(weight.isfinite().all()) for weight in body.parameters()):
        raise BundleError(f"{path.name}: its weights hold values that are NaN or infinite")
    return Perceptual("VGG19", body, _MEAN, _SPREAD)
