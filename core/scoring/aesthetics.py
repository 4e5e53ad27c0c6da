"""How good a picture looks, without a model of people's taste: proxies, and called that wherever they are shown.

PanGu-Draw scores aesthetics with a network that was trained on people's votes; there is none here. :func:`confidence` is for pictures of
the Orchard: a picture in which nothing is in doubt is a clean one. :func:`preference` also likes shading and texture better than flat
colours. :func:`appearance` is for any picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ..orchard.world import ATTRIBUTES

if TYPE_CHECKING:
    from .judge import Judge

_LUMA = (0.299, 0.587, 0.114)
_SIDE = 256
_SHARP, _COLOURFUL, _CONTRAST = 0.12, 0.5, 0.22
"""Values at which a quality counts as full: the detail's, the colour's and the brightness's spread, of channels in [0, 1]."""


@torch.no_grad()
def confidence(judge: Judge, pictures: Tensor, batch: int = 128) -> Tensor:
    """(B,) in (0, 1]: the mean over attributes of the probability that the judge gives its own reading of pictures (B, 3, H, W) in
    [-1, 1]."""
    rows = []
    for part in pictures.split(batch):
        logits = judge(part)
        rows.append(torch.stack([values.softmax(dim=1).amax(dim=1) for values in logits.values()]).mean(dim=0))
    return torch.cat(rows)


@torch.no_grad()
def preference(judge: Judge, pictures: Tensor, batch: int = 128) -> Tensor:
    """(B,) in [0, 1]: half :func:`confidence`, half the probability that the judge takes pictures (B, 3, H, W) in [-1, 1] for fine ones and
    not for cartoons, which PanGu-Draw (section 7) sets apart from what its voters preferred."""
    fine = ATTRIBUTES["style"].index("fine")
    shaded = torch.cat([judge(part)["style"].softmax(dim=1)[:, fine] for part in pictures.split(batch)])
    return (confidence(judge, pictures, batch) + shaded) / 2


def appearance(picture: Tensor) -> dict[str, float]:
    """What can be measured of one picture (3, H, W) in [0, 1], each from 0 to 1, and their mean as `aesthetics`.

    `sharpness`: the spread of fine detail; `contrast`: the spread of brightness; `colour`: colourfulness (Hasler and Suesstrunk 2003, eq.
    of M3); `exposure`: the share of pixels that are neither black nor burnt out.
    """
    scale = _SIDE / max(picture.shape[-2:])
    if scale < 1:  # the same measure for a picture and its enlargement
        size = [max(1, round(side * scale)) for side in picture.shape[-2:]]
        picture = functional.interpolate(picture[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    luma = (picture * picture.new_tensor(_LUMA)[:, None, None]).sum(dim=0)
    smooth = functional.avg_pool2d(functional.pad(luma[None, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0, 0]
    red_green, yellow_blue = picture[0] - picture[1], (picture[0] + picture[1]) / 2 - picture[2]
    spread = (red_green.var(correction=0) + yellow_blue.var(correction=0)).sqrt()
    colour = spread + 0.3 * (red_green.mean() ** 2 + yellow_blue.mean() ** 2).sqrt()
    found = {
        "sharpness": min(1.0, float((luma - smooth).std(correction=0)) / _SHARP),
        "contrast": min(1.0, float(luma.std(correction=0)) / _CONTRAST),
        "colour": min(1.0, float(colour) / _COLOURFUL),
        "exposure": float(((luma > 0.02) & (luma < 0.98)).float().mean()),
    }
    return found | {"aesthetics": sum(found.values()) / len(found)}
