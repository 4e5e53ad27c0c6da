"""A user's own networks for the filters of a folder: embeddings of pictures, texts in the same space, and a head that scores looks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..bundles.format import load_foreign
from ..checkpoint.pickled import read_pickled
from ..errors import BundleError
from ..text.picture_reader import PictureReader

_LAYER = re.compile(r"(?:.*\.)?(\d+)\.weight|(?:.*\.)?weight")
MOST_LAYERS, MOST_GAP = 16, 2
COLOURS = {
    "red": (1.0, 0.0, 0.0), "green": (0.0, 0.6, 0.0), "blue": (0.0, 0.0, 1.0), "yellow": (1.0, 1.0, 0.0), "black": (0.0, 0.0, 0.0),
    "white": (1.0, 1.0, 1.0),
}  # fmt: skip
FEWEST_COLOURS = 4
"""Of :data:`COLOURS`, that two encoders which were trained together name rightly at least; others name one by chance."""


class AestheticHead:
    """A linear head, or linear layers one after the other, from unit vectors of a CLIP's pictures to a score of looks.

    LAION's predictors are such heads on ViT-L/14 (1 to 10, trained on people's votes). `width` are the features of an embedding."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.layers, self.width = list(layers), layers[0][0].shape[1]

    @torch.no_grad()
    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return the scores (B,) of embeddings (B, width), which are scaled to length 1 first."""
        x = functional.normalize(embeddings.float(), dim=-1)
        for weight, bias in self.layers:
            x = functional.linear(x, weight, bias)
        return x[:, 0]


def load_head(path: Path) -> AestheticHead:
    """Return the head in a `.safetensors`, `.pth` or `.pt` file: `weight` and `bias`, or `layers.0.weight` and so on.

    The file is read without running code. Raises :class:`BundleError`, which names the file, for weights that are not linear layers from
    an embedding to one score, and where layers between them, which weights do not tell of, would be left out.
    """
    tensors: Any = load_foreign(path) if path.suffix.lower() == ".safetensors" else read_pickled(path)
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(one, Tensor) for one in tensors.values()):
        raise BundleError(f"{path.name} is no state dict of an aesthetic head: expected tensors such as layers.0.weight")
    numbered = {}
    for key in tensors:
        if (match := _LAYER.fullmatch(str(key))) is not None:
            numbered[int(match[1] or 0)] = str(key)
    order = sorted(numbered)
    layers = [(tensors[numbered[i]], tensors.get(f"{numbered[i].removesuffix('weight')}bias")) for i in order]
    sides = [tuple(weight.shape) for weight, _ in layers]
    chained = all(len(side) == 2 for side in sides) and all(a[0] == b[1] for a, b in zip(sides, sides[1:], strict=False))
    biased = all(bias is not None and tuple(bias.shape) == side[:1] for (_, bias), side in zip(layers, sides, strict=True))
    whole = 1 <= len(layers) <= MOST_LAYERS and 2 * len(layers) == len(tensors)
    if not (whole and chained and biased and sides[-1][0] == 1):
        raise BundleError(
            f"{path.name} is no aesthetic head: expected linear layers with biases from an embedding to one score, not {sides}"
        )
    if any(b - a > MOST_GAP for a, b in zip(order, order[1:], strict=False)):
        raise BundleError(f"{path.name} has other layers between its linear ones (numbers {order}), of which its weights do not tell")
    made = [(weight.float(), bias.float()) for weight, bias in layers if bias is not None]
    if not all(bool(one.isfinite().all()) for pair in made for one in pair):
        raise BundleError(f"{path.name}: its weights hold values that are NaN or infinite")
    return AestheticHead(made)


@dataclass(frozen=True)
class Vision:
    """What reads pictures for a filter. `texts(lines)` gives vectors (N, width) in the reader's space, None where no CLIP belongs to it;
    `head` scores the looks of an embedding."""

    reader: PictureReader
    texts: Callable[[Sequence[str]], Tensor] | None = None
    head: AestheticHead | None = None

    def embedding(self, pixels: Tensor) -> Tensor:
        """Return the unit vector (width,) of a picture (3, H, W) in [0, 1]."""
        return functional.normalize(self.reader.read(pixels.movedim(0, -1)[None]), dim=-1)[0]

    def similarity(self, lines: Sequence[str], embedding: Tensor) -> float:
        """Return the largest cosine of an embedding and one of the texts. Raises :class:`ValueError` without a CLIP."""
        if self.texts is None:
            raise ValueError("no CLIP reads the texts")
        return float((functional.normalize(self.texts(lines), dim=-1) @ embedding).max())

    def colours_named(self) -> int:
        """Return how many of the plain pictures of :data:`COLOURS` are nearest to the name of their own colour."""
        if self.texts is None:
            raise ValueError("no CLIP reads the texts")
        names = functional.normalize(self.texts([f"a plain {name} picture" for name in COLOURS]), dim=-1)
        pictures = torch.stack([self.embedding(torch.tensor(colour)[:, None, None].expand(3, 64, 64)) for colour in COLOURS.values()])
        return int(((pictures @ names.T).argmax(dim=1) == torch.arange(len(COLOURS))).sum())
