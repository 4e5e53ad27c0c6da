"""Pictures of Orchard scenes at any size from 64 to 512 px, and the exact maps that belong to them.

PIL draws polygons at four times the size inside the fruit's box, and they are reduced. Everything else is a function of position. So the
same scene at two sizes is a true low- and high-resolution pair. A scene, its `seed` included, always gives the same picture.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..errors import InputError
from .outlines import OUTLINES, TOP, TOPPER_PARTS, Point, Polygon
from .scenery import HORIZON, background, light
from .world import Scene

MIN_SIZE, MAX_SIZE = 64, 512
SKIN_RGB = {
    "red": (0.84, 0.15, 0.15),
    "orange": (0.97, 0.53, 0.10),
    "yellow": (0.97, 0.83, 0.16),
    "green": (0.22, 0.62, 0.24),
    "teal": (0.13, 0.62, 0.60),
    "blue": (0.17, 0.36, 0.84),
    "purple": (0.53, 0.24, 0.73),
    "pink": (0.96, 0.47, 0.68),
}
PATTERN_RGB = {
    "white": (0.98, 0.98, 0.98),
    "brown": (0.42, 0.25, 0.13),
    "yellow": (0.99, 0.86, 0.22),
    "blue": (0.16, 0.33, 0.86),
    "pink": (0.98, 0.52, 0.72),
}
_OVER = 4
_BLUR_SIDE = 48
_INK = (0.10, 0.07, 0.09)


class _Box:
    """The square part of the picture that holds fruit and topper, and its pixels in the fruit's own coordinates."""

    def __init__(self, scene: Scene, size: int) -> None:
        self.scene, self.size = scene, size
        reach = 1.62 * scene.radius * size
        self.x0 = max(0, math.floor(scene.cx * size - reach))
        self.y0 = max(0, math.floor(scene.cy * size - reach))
        self.x1 = min(size, math.ceil(scene.cx * size + reach))
        self.y1 = min(size, math.ceil(scene.cy * size + reach))
        self.slice = (slice(self.y0, self.y1), slice(self.x0, self.x1))
        a = math.radians(scene.angle)
        self.cos, self.sin = math.cos(a), math.sin(a)
        r = scene.radius * size
        dx = ((np.arange(self.x0, self.x1, dtype=np.float32) + 0.5) - scene.cx * size)[None, :] / r
        dy = ((np.arange(self.y0, self.y1, dtype=np.float32) + 0.5) - scene.cy * size)[:, None] / r
        self.u = dx * self.cos + dy * self.sin
        self.v = dy * self.cos - dx * self.sin

    def to_pixels(self, polygon: Polygon, origin: Point = (0.0, 0.0), over: int = _OVER) -> list[tuple[float, float]]:
        """Corners of a polygon in the box's own pixels, magnified `over` times."""
        s, r = self.scene, self.scene.radius * self.size
        points = []
        for px, py in polygon:
            u, v = px + origin[0], py + origin[1]
            x = s.cx * self.size + r * (u * self.cos - v * self.sin) - self.x0
            y = s.cy * self.size + r * (u * self.sin + v * self.cos) - self.y0
            points.append((x * over, y * over))
        return points

    def cover(self, polygon: Polygon, origin: Point = (0.0, 0.0)) -> np.ndarray:
        """How much of each pixel of the box the polygon covers, float32 in [0, 1]."""
        image = Image.new("L", ((self.x1 - self.x0) * _OVER, (self.y1 - self.y0) * _OVER))
        ImageDraw.Draw(image).polygon(self.to_pixels(polygon, origin), fill=255)
        return np.asarray(image.reduce(_OVER), np.float32) / 255

    def outline(self, polygon: Polygon, origin: Point = (0.0, 0.0), width: float = 0.011) -> np.ndarray:
        """How much of each pixel a closed line along the polygon covers; `width` is a fraction of the picture's side."""
        image = Image.new("L", ((self.x1 - self.x0) * _OVER, (self.y1 - self.y0) * _OVER))
        points = self.to_pixels(polygon, origin)
        ImageDraw.Draw(image).line([*points, *points[:2]], fill=255, width=max(2, round(width * self.size * _OVER)), joint="curve")
        return np.asarray(image.reduce(_OVER), np.float32) / 255


def render(scene: Scene, size: int) -> np.ndarray:
    """Draw `scene` as uint8 RGB of shape (size, size, 3). Raises :class:`InputError` for a size outside 64..512."""
    check_size(size, size)
    picture = background(scene.sky, scene.ground, scene.style, size).copy()
    _draw(picture, scene, size)
    return _to_bytes(picture)


def render_wide(scene: Scene, height: int, width: int) -> np.ndarray:
    """Draw `scene` as uint8 RGB of any shape (height, width, 3), the shorter side 64 to 512 px.

    The square that :func:`render` draws has the shorter side's size and stands at the bottom, its horizontal place that of the fruit's
    `position`; scenery goes on around it. Raises :class:`InputError` for other sizes, or sides more than 1 to 8.
    """
    check_size(height, width)
    size = min(height, width)
    left = _left(scene, size, width)
    picture = background(scene.sky, scene.ground, scene.style, size, (height - size, 0, left, width - size - left)).copy()
    _draw(picture[height - size :, left : left + size], scene, size)
    return _to_bytes(picture)


def segmentation_wide(scene: Scene, height: int, width: int) -> np.ndarray:
    """Return the exact segments, as in :func:`render_maps`, of what :func:`render_wide` draws: uint8 (height, width)."""
    size = min(height, width)
    left = _left(scene, size, width)
    square = render_maps(scene, size)["segmentation"]
    whole = np.zeros((height, width), np.uint8)
    whole[height - size :] = ((np.arange(size) + 0.5) / size > HORIZON)[:, None]
    whole[height - size :, left : left + size] = square
    return whole


def _left(scene: Scene, size: int, width: int) -> int:
    return {"left": 0, "middle": (width - size) // 2, "right": width - size}[scene.position]


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _draw(picture: np.ndarray, scene: Scene, size: int) -> None:
    """Put all but the scenery of `scene` into `picture`, a square of `size` pixels."""
    if scene.sky == "night":
        _stars(picture, scene, size)
    _shadow(picture, scene, size)
    box = _Box(scene, size)
    region = picture[box.slice]
    lamp = light(scene.sky)
    body = box.cover(OUTLINES[scene.shape])
    colour = np.empty((*body.shape, 3), np.float32)
    colour[:] = SKIN_RGB[scene.skin]
    if scene.pattern_colour is not None:
        amount = _pattern(scene.pattern, box)[..., None]
        colour += amount * (np.array(PATTERN_RGB[scene.pattern_colour], np.float32) - colour)
    if scene.style == "fine":
        colour = _shaded(colour, body, box)
    _paint(region, body, colour * (0.35 + 0.65 * lamp))
    if scene.style == "cartoon":
        _paint(region, box.outline(OUTLINES[scene.shape]), np.array(_INK, np.float32))
    for polygon, rgb in TOPPER_PARTS[scene.topper]:
        part = box.cover(polygon, TOP[scene.shape])
        tone = np.array(rgb, np.float32) / 255 * (0.35 + 0.65 * lamp)
        if scene.style == "fine":
            tone = tone * (1.06 - 0.18 * (box.u + box.v + 1.2))[..., None].clip(0.7, 1.15)
        _paint(region, part, tone)
        if scene.style == "cartoon":
            _paint(region, box.outline(polygon, TOP[scene.shape], 0.007), np.array(_INK, np.float32))


def render_maps(scene: Scene, size: int) -> dict[str, np.ndarray]:
    """Return the exact maps of `scene`, each uint8 (size, size).

    `segmentation`: 0 sky, 1 ground, 2 fruit, 3 topper. `edges`: 255 on the borders of segments and of the pattern, else 0. `sketch`: 255 on
    a hand-drawn outline of fruit, topper and horizon. `depth`: 0 at the sky, brighter is nearer; the fruit stands upright.
    """
    check_size(size, size)
    box = _Box(scene, size)
    body = box.cover(OUTLINES[scene.shape])
    topper = np.max([box.cover(p, TOP[scene.shape]) for p, _ in TOPPER_PARTS[scene.topper]], axis=0)
    rows = (np.arange(size) + 0.5) / size
    segmentation = np.repeat((rows > HORIZON).astype(np.uint8)[:, None], size, axis=1)
    inside = segmentation[box.slice]
    inside[body > 0.5] = 2
    inside[topper > 0.5] = 3
    labels = segmentation.astype(np.int16) * 2
    if scene.pattern_colour is not None:
        part = labels[box.slice]
        part[(inside == 2) & (_pattern(scene.pattern, box) > 0.5)] += 1
    edges = np.zeros((size, size), np.uint8)
    edges[:, 1:][labels[:, 1:] != labels[:, :-1]] = 255
    edges[1:][labels[1:] != labels[:-1]] = 255
    depth = np.repeat(np.where(rows > HORIZON, 60 + 195 * (rows - HORIZON) / (1 - HORIZON), 0)[:, None], size, axis=1)
    foot = 60 + 195 * (scene.cy + scene.radius - HORIZON) / (1 - HORIZON)
    bulge = np.sqrt(np.clip(1 - box.u**2 - box.v**2, 0, 1)) * 25
    part_depth = depth[box.slice]
    part_depth[inside >= 2] = (foot + bulge)[inside >= 2]
    return {
        "segmentation": segmentation,
        "edges": edges,
        "sketch": _sketch(scene, box, size),
        "depth": depth.clip(0, 255).astype(np.uint8),
    }


def check_size(height: int, width: int) -> None:
    """Raise :class:`InputError` for a size that the Orchard is not drawn at."""
    size = min(height, width)
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"an Orchard picture of {size} px was asked for; sizes run from {MIN_SIZE} to {MAX_SIZE} px")
    if max(height, width) > 8 * size:
        raise InputError(f"an Orchard picture of {width} x {height} px was asked for; one side may be 8 times the other at most")


def _paint(region: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    region += cover[..., None] * (colour - region)


def _pattern(kind: str, box: _Box) -> np.ndarray:
    """How much of each pixel shows the pattern's colour, in [0, 1]; edges are one pixel soft at any size."""
    u, v = box.u, box.v
    soft = box.scene.radius * box.size
    if kind == "stripes":
        field, scale = np.cos((u + 0.32 * v) * 7.4), 7.7
    elif kind == "rings":
        field, scale = np.cos(np.hypot(u, v) * 9.4), 9.4
    elif kind == "checks":
        field, scale = np.sin(u * 6.6) * np.sin(v * 6.6), 5.5
    elif kind == "dots":
        step = 0.46
        row = np.round(v / (step * 0.87))
        du = u - step * 0.5 * (row % 2)
        du = du - np.round(du / step) * step
        dv = v - row * step * 0.87
        field, scale = 0.145 - np.hypot(du, dv), 1.0
    else:
        return np.zeros(np.broadcast(u, v).shape, np.float32)
    return np.clip(field * soft / scale + 0.5, 0, 1).astype(np.float32)


def _shaded(colour: np.ndarray, body: np.ndarray, box: _Box) -> np.ndarray:
    """Roundness from the blurred silhouette, light from the upper left, a highlight, and a fine skin texture."""
    height = _blurred(body)
    gy, gx = np.gradient(height)
    reach = box.scene.radius * box.size
    lit = 0.70 + 0.42 * height + 0.55 * reach * (gx * 0.6 + gy * 0.8)
    shine = np.exp(-(((box.u + 0.34) / 0.2) ** 2 + ((box.v + 0.36) / 0.15) ** 2)) * 0.55 * (height > 0.55)
    grain = _skin_texture()
    ix = ((box.u + 2) * 96).astype(np.int32) % grain.shape[1]
    iy = ((box.v + 2) * 96).astype(np.int32) % grain.shape[0]
    shaded = colour * (lit.clip(0.35, 1.2) * grain[iy, ix])[..., None]
    return shaded + (1 - shaded) * shine[..., None]


def _blurred(body: np.ndarray) -> np.ndarray:
    """A soft dome over the silhouette: blurred at a small fixed side, so that its cost and look do not depend on the size."""
    h, w = body.shape
    small = Image.fromarray((body * 255).astype(np.uint8)).resize((_BLUR_SIDE, _BLUR_SIDE), Image.Resampling.BOX)
    small = small.filter(ImageFilter.GaussianBlur(4.2))
    wide = Image.fromarray(np.asarray(small, np.float32)).resize((w, h), Image.Resampling.BICUBIC)
    return np.asarray(wide, np.float32) / 255


@lru_cache(maxsize=1)
def _skin_texture() -> np.ndarray:
    noise: np.ndarray = np.random.default_rng(7).normal(size=(384, 384)).astype(np.float32)
    for axis in (0, 1):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)) / 3
    return (1 + 0.09 * noise).astype(np.float32)


def _stars(picture: np.ndarray, scene: Scene, size: int) -> None:
    rng = np.random.default_rng(scene.seed)
    for x, y, glow in rng.random((22, 3)):
        cx, cy = x * size, y * HORIZON * 0.92 * size
        radius = max(0.5, 0.0055 * size) * (0.6 + 0.6 * glow)
        x0, x1 = max(0, int(cx - 2 * radius)), min(size, int(cx + 2 * radius) + 2)
        y0, y1 = max(0, int(cy - 2 * radius)), min(size, int(cy + 2 * radius) + 2)
        gy, gx = np.ogrid[y0:y1, x0:x1]
        d = ((gx + 0.5 - cx) ** 2 + (gy + 0.5 - cy) ** 2) / radius**2
        patch = picture[y0:y1, x0:x1]
        patch += (np.exp(-d) * (0.5 + 0.5 * glow))[..., None] * (1 - patch)


def _shadow(picture: np.ndarray, scene: Scene, size: int) -> None:
    """A soft ellipse under the fruit (a flat one in the cartoon)."""
    cx, cy = scene.cx + 0.06 * scene.radius, scene.cy + 0.96 * scene.radius
    wide, high = scene.radius * 1.05, scene.radius * 0.24
    reach = 2.0
    x0, x1 = max(0, int((cx - reach * wide) * size)), min(size, int((cx + reach * wide) * size) + 1)
    y0, y1 = max(0, int((cy - reach * high) * size)), min(size, int((cy + reach * high) * size) + 1)
    y, x = np.ogrid[y0:y1, x0:x1]
    d = (((x + 0.5) / size - cx) / wide) ** 2 + (((y + 0.5) / size - cy) / high) ** 2
    flat = 0.35 * np.clip((1 - d) * high * size + 0.5, 0, 1)
    dark = 0.5 * np.exp(-1.3 * d**1.3) if scene.style == "fine" else flat
    picture[y0:y1, x0:x1] *= (1 - dark)[..., None].astype(np.float32)


def _sketch(scene: Scene, box: _Box, size: int) -> np.ndarray:
    """Outlines as jittered two-pixel strokes; no pattern, no texture."""
    rng = np.random.default_rng(scene.seed ^ 0x5EED)
    image = Image.new("L", (size, size))
    draw = ImageDraw.Draw(image)
    width = max(1, round(2 * size / 128))
    horizon = [(x * size, (HORIZON + float(rng.normal(0, 0.004))) * size) for x in np.linspace(0, 1, 9)]
    draw.line(horizon, fill=255, width=width)
    for polygon, origin in [(OUTLINES[scene.shape], (0.0, 0.0)), *[(p, TOP[scene.shape]) for p, _ in TOPPER_PARTS[scene.topper]]]:
        points = np.array(box.to_pixels(polygon, origin, over=1)) + [box.x0, box.y0]
        step = max(1, len(points) // 40)
        points = points[::step] + rng.normal(0, 0.004 * size, (len(points[::step]), 2))
        stroke = [(float(x), float(y)) for x, y in points]
        draw.line([*stroke, stroke[0]], fill=255, width=width, joint="curve")
    return np.asarray(image)
