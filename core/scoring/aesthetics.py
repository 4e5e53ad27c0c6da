"""Proxies for how good a picture looks, called proxies wherever they are shown.

PanGu-Draw (section 7) scores aesthetics with a network that was trained on people's votes; no such network is available here.
:func:`confidence` is for pictures of the Orchard: a picture of which every attribute is clear is a clean one. :func:`preference` also
scores shading and texture above flat colours. :func:`appearance` is for any picture.
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
"""Spreads of detail, colour and brightness, of channels in [0, 1], at which the quality counts as 1."""


@torch.no_grad()
def confidence(judge: Judge, pictures: Tensor, batch: int = 128) -> Tensor:
    """Return (B,) in (0, 1]: how sure the judge is of its own reading of pictures (B, 3, H, W) in [-1, 1]. The mean over attributes of
    the largest probability."""
    rows = []
    for part in pictures.split(batch):
        logits = judge(part)
        rows.append(torch.stack([values.softmax(dim=1).amax(dim=1) for values in logits.values()]).mean(dim=0))
    return torch.cat(rows)


@torch.no_grad()
def preference(judge: Judge, pictures: Tensor, batch: int = 128) -> Tensor:
    """Return (B,) in [0, 1] for pictures (B, 3, H, W) in [-1, 1]: half :func:`confidence`, half the probability that the judge finds a
    picture finely drawn. PanGu-Draw (section 7) likewise sets cartoons apart from the pictures that people prefer."""
    fine = ATTRIBUTES["style"].index("fine")
    shaded = torch.cat([judge(part)["style"].softmax(dim=1)[:, fine] for part in pictures.split(batch)])
    return (confidence(judge, pictures, batch) + shaded) / 2


def appearance(picture: Tensor) -> dict[str, float]:
    """Return measures of one picture (3, H, W) in [0, 1], each from 0 to 1, and their mean as `aesthetics`.

    `sharpness` is the spread of fine detail, `contrast` the spread of brightness, `colour` the colourfulness (Hasler and Suesstrunk 2003,
    measure M3), `exposure` the share of pixels that are neither black nor burnt out.
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
