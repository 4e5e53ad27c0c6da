"""Outlines of the fruits and their toppers as polygons in the fruit's own coordinates.

The unit is the fruit's radius, the origin its centre, y points down. Every outline fits the unit disc roughly, and `TOP` says where its
topper is attached.
"""

from __future__ import annotations

import math

Point = tuple[float, float]
Polygon = list[Point]

_STEPS = 120


def _turn(count: int = _STEPS) -> list[float]:
    return [2 * math.pi * i / count for i in range(count)]


def _round() -> Polygon:
    return [(math.cos(a), 0.97 * math.sin(a)) for a in _turn()]


def _pear() -> Polygon:
    points = []
    for a in _turn():
        y = -math.cos(a)
        belly = 0.86 * math.sqrt(max(0.0, 1 - ((y - 0.34) / 0.66) ** 2)) if y > 0.05 else 0.0
        neck = 0.36 * math.sqrt(max(0.0, 1 - ((y + 0.62) / 0.38) ** 2)) if y < -0.62 else 0.0
        if -0.62 <= y <= 0.05:  # a smooth flank from neck to belly
            t = (y + 0.62) / 0.67
            t = t * t * (3 - 2 * t)
            belly = 0.36 + (0.774 - 0.36) * t
        points.append((math.copysign(max(belly, neck), math.sin(a)), y))
    return points


def _star() -> Polygon:
    points = []
    for a in _turn(200):
        radius = 0.58 + 0.47 * math.cos(2.5 * a) ** 2 * abs(math.cos(2.5 * a))
        points.append((radius * math.sin(a), -radius * math.cos(a)))
    return points


def _crescent() -> Polygon:
    outer = [(math.cos(a), math.sin(a)) for a in [math.radians(30 + 300 * i / 90) for i in range(91)]]
    tip = outer[-1]
    centre = (0.42, 0.0)
    radius = math.hypot(tip[0] - centre[0], tip[1])
    start = math.atan2(tip[1], tip[0] - centre[0])
    inner = []
    for i in range(91):
        a = start + (-2 * math.pi - 2 * start) * i / 90
        inner.append((centre[0] + radius * math.cos(a), radius * math.sin(a)))
    return [(x + 0.12, y) for x, y in outer + inner]


def _gourd() -> Polygon:
    points = []
    for a in _turn():
        y = -math.cos(a)
        low = 0.74 * math.sqrt(max(0.0, 1 - ((y - 0.38) / 0.62) ** 2)) if y > -0.24 else 0.0
        high = 0.46 * math.sqrt(max(0.0, 1 - ((y + 0.58) / 0.42) ** 2)) if y < -0.16 else 0.0
        points.append((math.copysign(max(low, high, 0.26 if -0.5 < y < 0.0 else 0.0), math.sin(a)), y))
    return points


def _heart() -> Polygon:
    points = []
    for a in _turn():
        x = 16 * math.sin(a) ** 3
        y = 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
        points.append((x / 16.2, -(y + 2.5) / 15.2))
    return points


def _bell() -> Polygon:
    right = []
    for i in range(61):
        y = -0.95 + 1.73 * i / 60
        if y < -0.6:
            x = 0.34 * math.sqrt(max(0.0, 1 - ((y + 0.6) / 0.35) ** 2))
        else:
            t = (y + 0.6) / 1.38
            x = 0.34 + 0.62 * t**1.9
        right.append((x, y))
    rim = [(0.96 * math.cos(a), 0.78 + 0.18 * math.sin(a)) for a in [math.pi * i / 40 for i in range(1, 40)]]
    return right + rim + [(-x, y) for x, y in reversed(right)]


def _diamond() -> Polygon:
    points = []
    for a in _turn(160):
        c, s = math.cos(a), math.sin(a)
        radius = (abs(c) ** 1.25 + abs(s) ** 1.25) ** (-1 / 1.25)
        points.append((0.94 * radius * c, 1.06 * radius * s))
    return points


OUTLINES: dict[str, Polygon] = {
    "round": _round(),
    "pear": _pear(),
    "star": _star(),
    "crescent": _crescent(),
    "gourd": _gourd(),
    "heart": _heart(),
    "bell": _bell(),
    "diamond": _diamond(),
}

TOP: dict[str, Point] = {
    "round": (0.0, -0.93),
    "pear": (0.0, -0.96),
    "star": (0.0, -0.98),
    "crescent": (-0.05, -0.95),
    "gourd": (0.0, -0.96),
    "heart": (0.0, -0.52),
    "bell": (0.0, -0.92),
    "diamond": (0.0, -1.0),
}

Rgb = tuple[int, int, int]
_BROWN: Rgb = (101, 67, 36)
_STALK: Polygon = [(-0.07, 0.08), (-0.05, -0.3), (0.07, -0.33), (0.08, 0.08)]
_LONG_STALK: Polygon = [(-0.08, 0.1), (-0.1, -0.28), (0.02, -0.5), (0.2, -0.52), (0.2, -0.41), (0.09, -0.39), (0.08, -0.2), (0.09, 0.1)]


def _leaf() -> Polygon:
    upper = [(0.02 + 0.62 * t, -0.22 - 0.34 * math.sin(math.pi * t) - 0.14 * t) for t in [i / 20 for i in range(21)]]
    lower = [(0.02 + 0.62 * t, -0.22 + 0.16 * math.sin(math.pi * t) - 0.14 * t) for t in [i / 20 for i in range(20, -1, -1)]]
    return upper + lower


def _disc(x: float, y: float, radius: float) -> Polygon:
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in _turn(28)]


def _petals() -> list[tuple[Polygon, Rgb]]:
    ring = [(0.24 * math.sin(a), -0.24 - 0.24 * math.cos(a)) for a in _turn(6)]
    return [(_disc(x, y, 0.165), (250, 243, 250)) for x, y in ring] + [(_disc(0.0, -0.24, 0.14), (247, 190, 40))]


_CROWN: Polygon = [(-0.36, 0.06), (-0.46, -0.44), (-0.2, -0.2), (0.0, -0.54), (0.2, -0.2), (0.46, -0.44), (0.36, 0.06)]
_BAND: Polygon = [(-0.36, 0.08), (-0.38, -0.05), (0.38, -0.05), (0.36, 0.08)]

TOPPER_PARTS: dict[str, list[tuple[Polygon, Rgb]]] = {
    "leaf": [(_STALK, _BROWN), (_leaf(), (56, 152, 60))],
    "stem": [(_LONG_STALK, _BROWN)],
    "flower": _petals(),
    "crown": [(_CROWN, (246, 196, 48)), (_BAND, (205, 140, 24))],
}
"""Each topper as coloured polygons, drawn in order; its origin is the fruit's :data:`TOP`."""
