"""Sky and ground of a scene, drawn once for each (sky, ground, style, size) and kept.

Colours are float32 RGB in [0, 1]. Textures are functions of position in the unit square, so that the same scene at another size shows
the same scenery: true low- and high-resolution pairs come for free.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

HORIZON = 0.6
"""Height of the horizon as a fraction of the picture's side, from the top."""

_SKY = {
    "day": ((0.46, 0.75, 0.97), (0.90, 0.96, 1.00)),
    "dusk": ((0.37, 0.22, 0.47), (0.99, 0.62, 0.36)),
    "night": ((0.03, 0.04, 0.15), (0.14, 0.17, 0.38)),
}
_LIGHT = {"day": (1.0, 1.0, 1.0), "dusk": (0.93, 0.80, 0.74), "night": (0.46, 0.50, 0.66)}
_GROUND = {
    "grass": (0.35, 0.63, 0.26),
    "sand": (0.91, 0.80, 0.57),
    "wood": (0.65, 0.43, 0.25),
    "snow": (0.92, 0.95, 0.99),
    "water": (0.26, 0.55, 0.78),
}
LAMP = {"day": (0.16, 0.15, 0.075), "dusk": (0.80, 0.53, 0.10), "night": (0.84, 0.14, 0.07)}
"""Sun or moon: centre x, centre y and radius as fractions of the side."""
_LAMP_COLOUR = {"day": (1.0, 0.90, 0.45), "dusk": (1.0, 0.46, 0.26), "night": (0.96, 0.95, 0.84)}


def light(sky: str) -> np.ndarray:
    """Return the colour (3,) by which everything on the ground is multiplied under this sky."""
    return np.array(_LIGHT[sky], np.float32)


@lru_cache(maxsize=128)
def background(sky: str, ground: str, style: str, size: int, around: tuple[int, int, int, int] = (0, 0, 0, 0)) -> np.ndarray:
    """Return the empty scene, float32 (size, size, 3). The result is shared: copy it before drawing on it.

    `around` are pixels of more scenery above, below, left and right of the square: (size + above + below, size + left + right, 3).
    """
    above, below, left, right = around
    y, x = (np.mgrid[-above : size + below, -left : size + right].astype(np.float32) + 0.5) / size
    top, bottom = (np.array(c, np.float32) for c in _SKY[sky])
    t = np.clip(y / HORIZON, 0, 1)[..., None]
    picture = top * (1 - t) + bottom * t
    picture = _lamp(picture, x, y, sky, style, size)
    depth = np.clip((y - HORIZON) / (1 - HORIZON), 0, 1)
    land = np.array(_GROUND[ground], np.float32) * light(sky)
    shade = np.ones_like(x) if style == "cartoon" else _texture(ground, x, depth)
    land = land * (shade * (0.86 + 0.2 * depth))[..., None]
    if ground == "water":
        land = land * 0.82 + bottom * 0.18
    cover = np.clip((y - HORIZON) * size + 0.5, 0, 1)[..., None]
    return np.clip(picture * (1 - cover) + land * cover, 0, 1).astype(np.float32)


def _lamp(picture: np.ndarray, x: np.ndarray, y: np.ndarray, sky: str, style: str, size: int) -> np.ndarray:
    cx, cy, radius = LAMP[sky]
    distance = np.hypot(x - cx, y - cy)
    colour = np.array(_LAMP_COLOUR[sky], np.float32)
    if style == "fine":
        glow = 0.45 * np.exp(-((distance / (2.2 * radius)) ** 2))[..., None]
        picture = picture * (1 - glow) + colour * glow
    cover = np.clip((radius - distance) * size + 0.5, 0, 1)[..., None]
    return picture * (1 - cover) + colour * cover


def _texture(ground: str, x: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Brightness of the ground around 1. `depth` runs from 0 at the horizon to 1 at the lower edge; near things are larger."""
    far = 1.0 / (0.28 + depth)
    u = (x - 0.5) * far
    v = far * 2.2
    if ground == "grass":
        return 1 + 0.10 * np.sin(150 * u + 6 * np.sin(19 * v)) * np.sin(47 * v) + 0.05 * np.sin(41 * u + 13 * v)
    if ground == "sand":
        return 1 + 0.07 * np.sin(26 * v + 2.2 * np.sin(9 * u) + 1.3 * np.sin(23 * u))
    if ground == "wood":
        plank = np.floor(5.5 * u)
        seam = 1 - 0.35 * np.exp(-(((5.5 * u - np.round(5.5 * u)) / 0.045) ** 2))
        grain = 0.06 * np.sin(60 * u + 3 * np.sin(5 * v + 2 * plank)) + 0.07 * np.sin(2.4 * plank + 1)
        return (1 + grain) * seam
    if ground == "snow":
        return 1 + 0.03 * np.sin(13 * u + 2 * np.sin(5 * v)) * np.sin(9 * v) + 0.015 * np.sin(90 * u) * np.sin(70 * v)
    ripple = np.sin(34 * v + 1.6 * np.sin(11 * u) + 0.8 * np.sin(29 * u))
    return 1 + 0.10 * ripple + 0.10 * np.clip(ripple - 0.6, 0, 1)
