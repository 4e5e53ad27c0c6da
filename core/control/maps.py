"""Condition maps of any picture: Canny edges, sketches, segmentation (the conditions of ELR-Diffusion, section 3.1).

Canny's method (1986) has four steps: blur, gradient, non-maximum suppression, hysteresis. The gradient is taken in the colour channel where
it is largest (Di Zenzo's simple case), so two colours of equal brightness have an edge between them. The papers name no thresholds; 0.1 and
0.2 are our choice.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .segmenter import classes_to_image, load_segmenter, segment

KINDS = ("canny", "sketch", "segmentation", "outline")
MAX_SIDE = 8192
_BLUR = 1.0  # standard deviation in pixels
_SKETCH_BLUR = 1 / 64  # of the shorter side


def canny(pictures: Tensor, low: float = 0.1, high: float = 0.2, blur: float = _BLUR) -> Tensor:
    """Return edges (B, H, W) of pictures (B, C, H, W) in [0, 1]: 1 on an edge one pixel wide, 0 elsewhere.

    A pixel whose gradient is above `high` is an edge. One whose gradient is above `low` is an edge where it touches another edge pixel. A
    full-scale step has the gradient 1 before the blur. Both defaults are our choice. Raises :class:`InputError` unless 0 <= low <= high,
    and for tensors that are no pictures.
    """
    _check(pictures, low, high)
    size, angle = _gradient(_blurred(pictures.float(), blur))
    ridge = _thinned(size, angle)
    strong, weak = ridge > high, ridge > low
    while True:
        grown = functional.max_pool2d(strong[:, None].float(), 3, 1, 1)[:, 0].bool() & weak
        if torch.equal(grown, strong):
            return grown.float()
        strong = grown


def sketch(pictures: Tensor, low: float = 0.1, high: float = 0.2) -> Tensor:
    """Return the main contours (B, H, W) as strokes of about two pixels in 128: Canny edges at a coarse scale, where textures are gone."""
    _check(pictures, low, high)
    side = min(pictures.shape[-2:])
    blur = max(_BLUR, side * _SKETCH_BLUR)
    return _strokes(canny(pictures, low / blur, high / blur, blur), side)  # a step's gradient falls as its blur grows


def outline(classes: Tensor) -> Tensor:
    """Return the borders between the segments of class maps (B, H, W), drawn as a sketch is: (B, H, W) in {0, 1}."""
    edges = torch.zeros_like(classes, dtype=torch.float32)
    edges[:, :, 1:] += classes[:, :, 1:] != classes[:, :, :-1]
    edges[:, 1:] += classes[:, 1:] != classes[:, :-1]
    return _strokes(edges.clamp(max=1), min(classes.shape[-2:]))


def condition_map(image: Tensor, kind: str, low: float = 0.1, high: float = 0.2, segmenter: Path | None = None) -> Tensor:
    """An IMAGE (B, H, W, 3) in [0, 1] of one of :data:`KINDS`: white on black, or the segments in their colours.

    `segmentation` and `outline` need the file of a segmenter. Raises :class:`InputError`.
    """
    if kind not in KINDS:
        raise InputError(f"type={kind!r}: expected {', '.join(KINDS)}")
    if image.dim() != 4 or image.shape[-1] < 3 or not image.numel():
        raise InputError(f"an IMAGE (B, H, W, 3) is expected, not {tuple(image.shape)}")
    pictures = image[..., :3].movedim(-1, 1).float()
    if kind in ("canny", "sketch"):
        return (canny if kind == "canny" else sketch)(pictures, low, high)[..., None].expand(-1, -1, -1, 3).contiguous()
    _check(pictures, low, high)
    if segmenter is None:
        raise InputError(f"type={kind!r} needs a segmenter; `python -m rapiddraw train segmenter` makes one")
    classes = segment(load_segmenter(segmenter), pictures * 2 - 1)
    return classes_to_image(classes) if kind == "segmentation" else outline(classes)[..., None].expand(-1, -1, -1, 3).contiguous()


def _check(pictures: Tensor, low: float, high: float) -> None:
    if pictures.dim() != 4 or not 0 < max(pictures.shape[-2:]) <= MAX_SIDE or min(pictures.shape) < 1:
        raise InputError(f"pictures (B, C, H, W) of at most {MAX_SIDE} pixels a side are expected, not {tuple(pictures.shape)}")
    if not 0 <= low <= high <= math.inf:  # a NaN fails every comparison
        raise InputError(f"low={low}, high={high}: expected 0 <= low <= high")


def _blurred(pictures: Tensor, sigma: float) -> Tensor:
    if sigma <= 0:
        return pictures
    reach = math.ceil(3 * sigma)
    row = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=pictures.dtype, device=pictures.device) / sigma) ** 2)
    row = (row / row.sum()).expand(pictures.shape[1], 1, 1, -1)
    wide = functional.pad(pictures, (reach, reach, 0, 0), mode="replicate")
    wide = functional.conv2d(wide, row, groups=pictures.shape[1])
    tall = functional.pad(wide, (0, 0, reach, reach), mode="replicate")
    return functional.conv2d(tall, row.transpose(2, 3), groups=pictures.shape[1])


def _gradient(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return the steepest gradient of any channel, (B, H, W), and its angle. Sobel's kernels are scaled so that a full-scale step has 1."""
    channels = pictures.shape[1]
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=pictures.device, dtype=pictures.dtype) / 4
    padded = functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    gx = functional.conv2d(padded, kernel.expand(channels, 1, 3, 3), groups=channels)
    gy = functional.conv2d(padded, kernel.T.expand(channels, 1, 3, 3), groups=channels)
    size, best = torch.hypot(gx, gy).max(dim=1, keepdim=True)
    return size[:, 0], torch.atan2(gy.gather(1, best), gx.gather(1, best))[:, 0]


def _thinned(size: Tensor, angle: Tensor) -> Tensor:
    """Return `size` where it is the largest value across the edge, 0 elsewhere. Of two equal neighbours the one on the gradient's side
    stays.
    """
    sector = (angle / (math.pi / 4)).round().long() % 4
    around = functional.pad(size[:, None], (1, 1, 1, 1))[:, 0]
    height, width = size.shape[-2:]
    kept = torch.zeros_like(size)
    for index, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = around[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        behind = around[:, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        kept = torch.where((sector == index) & (size > ahead) & (size >= behind), size, kept)
    return kept


def _strokes(edges: Tensor, side: int) -> Tensor:
    """Return thin edges (B, H, W) as wide as a pen that draws two pixels in 128."""
    reach = max(1, round(side / 128))
    return functional.max_pool2d(functional.pad(edges[:, None], (0, reach, 0, reach)), reach + 1, 1)[:, 0]
