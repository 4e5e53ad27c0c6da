"""Description of a few-step student in its file's metadata: how it was made, and how it is to be sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..checks import real_number, whole_number
from ..errors import BundleError, InputError

METHODS = ("trajectory", "progressive", "cfg_aware", "guidance_embedded", "consistency", "adversarial")
SAMPLERS = {"consistency": "lcm", "adversarial": "lcm"}
"""Samplers of the methods that are not sampled by `euler`: after each step but the last they add new noise."""
KEY = "few_step"
"""The entry of a bundle's config that holds the description."""
MAX_STEPS = 64
MAX_SCALE = 100.0


@dataclass(frozen=True)
class About:
    """What a file says. `scale` is the guidance scale to sample with, by the sampler's guidance or, for `guidance_embedded`, by the student
    itself; `low` to `high` are the scales that it knows. `taught_scale` is that of its teacher. `prediction` and `channels` are the base's.
    """

    method: str
    steps: int
    sampler: str
    scheduler: str
    scale: float
    low: float
    high: float
    taught_scale: float
    prediction: str
    channels: int

    @property
    def guidance_free(self) -> bool:
        """Whether the sampler's guidance must be off (scale 1): the student has learned it, or is told its scale."""
        return self.method == "guidance_embedded" or (self.method != "cfg_aware" and self.taught_scale != 1)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    def check(self) -> None:
        """Raise :class:`InputError` for a value out of range."""
        if self.method not in METHODS:
            raise InputError(f"method={self.method!r:.60}: expected one of {', '.join(METHODS)}")
        whole_number("steps", self.steps, 1, MAX_STEPS)
        whole_number("channels", self.channels, 1, 4096)
        for name in ("scale", "low", "high", "taught_scale"):
            real_number(name, getattr(self, name), 0, MAX_SCALE)


def read_about(config: Mapping[str, Any], source: str) -> About:
    """Return the description in a bundle's `config`. Raises :class:`BundleError`, which says `source`, where there is none or where it is
    damaged."""
    told = config.get(KEY)
    if not isinstance(told, Mapping):
        raise BundleError(f"{source} is no few-step student; it comes from Distill Few Steps or `python -m rapiddraw train few_step`")
    kinds: dict[str, Any] = {field.name: {"str": str, "int": int, "float": (int, float)}[str(field.type)] for field in fields(About)}
    wrong = [name for name, kind in kinds.items() if not isinstance(told.get(name), kind) or isinstance(told.get(name), bool)]
    if wrong:
        raise BundleError(f"{source}: its description lacks {', '.join(wrong)}, or has it wrong; distil the student again")
    about = About(**{name: told[name] for name in kinds})
    try:
        about.check()
    except InputError as error:
        raise BundleError(f"{source}: {error}") from error
    return about


def scale_to_use(about: About, asked: float) -> tuple[float, float, str]:
    """Return (the sampler's guidance scale, the scale that the student is told, a warning or "") for a scale that a user asked for.

    0 asks for the student's own. Raises :class:`InputError` for a scale out of range.
    """
    if not (math.isfinite(asked) and 0 <= asked <= MAX_SCALE):
        raise InputError(f"scale={asked!r}: expected 0 (the student's own) or a guidance scale up to {MAX_SCALE:g}")
    wanted = asked or about.scale
    outside = f"the student was trained for guidance scales from {about.low:g} to {about.high:g}; {wanted:g} is used" if asked and not (
        about.low <= wanted <= about.high
    ) else ""  # fmt: skip
    if about.method == "guidance_embedded":
        return 1.0, wanted, outside
    if about.guidance_free:
        learned = f"the student has learned guidance at scale {about.taught_scale:g} and is sampled at scale 1"
        return 1.0, about.taught_scale, f"{learned}; {asked:g} was asked for and is not used" if asked > 1 else ""
    return wanted, wanted, outside
