"""Control on a conditioning, the same in both hosts: a CONTROL_NET with its hint goes into the entries of a CONDITIONING.

This is what the stock node ControlNetApplyAdvanced does, chains included: an entry that has control already keeps it as the previous one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import InputError
from .hints import merge_hints

MAX_STRENGTH = 10.0


def attach_control(
    conditionings: tuple[Any, ...], control_net: Any, hint: Tensor, strength: float, start: float, end: float, **more: Any
) -> tuple[Any, ...]:
    """`conditionings` with control by `hint` (B, c, H, W) in every entry, `start` and `end` being parts (0..1) of the walk.

    Entries with one history share one control object, so that they are evaluated together. At strength 0 they come back as they are.

    Raises :class:`InputError` for a strength outside -10..10 and parts that are no range.
    """
    check_control(strength, start, end)
    if strength == 0:
        return conditionings
    made: dict[int, Any] = {}
    out = []
    for conditioning in conditionings:
        entries = []
        for tokens, details in conditioning:
            previous = details.get("control")
            if id(previous) not in made:
                copy = control_net.copy().set_cond_hint(hint, strength, (start, end), **more)
                copy.set_previous_controlnet(previous)
                made[id(previous)] = copy
            entries.append([tokens, {**details, "control": made[id(previous)], "control_apply_to_uncond": False}])
        out.append(entries)
    return tuple(out)


def apply_adapter(
    positive: Any, negative: Any, control_net: Any, images: Mapping[str, Tensor | None], strength: float, start: float, end: float
) -> tuple[Any, Any]:
    """Both conditionings under a control adapter and the IMAGEs of its conditions, by name; None is a condition that is not given."""
    check_control(strength, start, end)
    given = {name: image for name, image in images.items() if image is not None}
    conditions = getattr(control_net, "conditions", None)
    if conditions is None:
        raise InputError("this CONTROL_NET is no adapter of RapidDraw; apply it with the stock node Apply ControlNet")
    hint = merge_hints(given, conditions)
    first, second = attach_control((positive, negative), control_net, hint, strength, start, end)
    return first, second


def check_control(strength: float, start: float, end: float) -> None:
    """Raise :class:`InputError` for numbers that no control has."""
    if not (math.isfinite(strength) and abs(strength) <= MAX_STRENGTH):
        raise InputError(f"strength={strength}: expected -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}; 1 is what the adapter was trained with")
    if not (0 <= start <= 1 and 0 <= end <= 1):
        raise InputError(f"start={start}, end={end}: parts of the sampling lie between 0 and 1")
