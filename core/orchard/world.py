"""Scenes of the Orchard: the attributes that a picture can show, their values, and one scene."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError

SHAPES = ("round", "pear", "star", "crescent", "gourd", "heart", "bell", "diamond")
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
PATTERNS = ("plain", "stripes", "dots", "checks", "rings")
PATTERN_COLOURS = ("white", "brown", "yellow", "blue", "pink")
TOPPERS = ("leaf", "stem", "flower", "crown")
SKIES = ("day", "dusk", "night")
GROUNDS = ("grass", "sand", "wood", "snow", "water")
SIZES = ("small", "large")
POSITIONS = ("left", "middle", "right")
STYLES = ("fine", "cartoon")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "skin": COLOURS,
    "pattern": PATTERNS,
    "pattern_colour": PATTERN_COLOURS,
    "topper": TOPPERS,
    "ground": GROUNDS,
    "sky": SKIES,
    "size": SIZES,
    "position": POSITIONS,
    "style": STYLES,
}
"""Every attribute and its values, in the order of the judge's heads."""

FRUIT_ATTRIBUTES = ("shape", "skin", "pattern", "pattern_colour", "topper")
"""The attributes that belong to a fruit (and that the knowledge graph knows); the rest belong to the scene."""


@dataclass(frozen=True)
class Scene:
    """One picture: its attributes by name and the continuous values that no caption mentions.

    Lengths are fractions of the picture's side, `angle` is in degrees (clockwise), `seed` drives stars, texture and the sketch's
    jitter. `pattern_colour` is `None` exactly where `pattern` is `plain`.
    """

    shape: str
    skin: str
    pattern: str
    pattern_colour: str | None
    topper: str
    size: str
    position: str
    sky: str
    ground: str
    style: str
    cx: float
    cy: float
    radius: float
    angle: float
    seed: int

    def attributes(self) -> dict[str, str | None]:
        """Return the named attributes alone, keyed as in :data:`ATTRIBUTES`."""
        return {name: getattr(self, name) for name in ATTRIBUTES}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Scene:
        return Scene(**data)


_CENTRE = {"left": 0.29, "middle": 0.5, "right": 0.71}
_RADIUS = {"small": 0.185, "large": 0.265}


def random_scene(rng: random.Random, **fixed: str | None) -> Scene:
    """Draw a scene; attributes given as keywords stay as given, all others are uniform.

    Raises :class:`InputError` for an unknown attribute or value.
    """
    for name, value in fixed.items():
        if name not in ATTRIBUTES:
            raise InputError(f"unknown attribute {name!r}; the attributes are {', '.join(ATTRIBUTES)}")
        if value is not None and value not in ATTRIBUTES[name]:
            raise InputError(f"{name} cannot be {value!r}; its values are {', '.join(ATTRIBUTES[name])}")
    chosen: dict[str, Any] = {name: rng.choice(values) for name, values in ATTRIBUTES.items()}
    chosen.update({name: value for name, value in fixed.items() if value is not None})
    if chosen["pattern"] == "plain":
        chosen["pattern_colour"] = None
    elif chosen["pattern_colour"] == chosen["skin"]:
        chosen["pattern_colour"] = rng.choice([c for c in PATTERN_COLOURS if c != chosen["skin"]])
    radius = _RADIUS[chosen["size"]] * rng.uniform(0.93, 1.07)
    return Scene(
        **chosen,
        cx=_CENTRE[chosen["position"]] + rng.uniform(-0.03, 0.03),
        cy=rng.uniform(0.79, 0.85) - radius,
        radius=radius,
        angle=rng.uniform(-12.0, 12.0),
        seed=rng.getrandbits(32),
    )
