"""Control on a conditioning, the same in both hosts: a CONTROL_NET with its hint is put into the entries of a CONDITIONING.

The stock node ControlNetApplyAdvanced does the same. Where an entry already has control, the older control stays as the previous one.
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
    """Return `conditionings` with control by `hint` (B, c, H, W) in every entry.

    `start` and `end` are parts (0 to 1) of the sampling run. Entries with the same earlier control share one control object, so the host
    evaluates them together. At strength 0 the conditionings come back as they are.

    Raises :class:`InputError` for a strength outside -10 to 10 and for parts outside 0 to 1.
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
    """Return both conditionings under a control adapter. `images` are the IMAGEs of its conditions by name; `None` leaves a condition out.

    Raises :class:`InputError` for a CONTROL_NET of another kind, and as :func:`attach_control` and :func:`~.hints.merge_hints` do.
    """
    check_control(strength, start, end)
    given = {name: image for name, image in images.items() if image is not None}
    conditions = getattr(control_net, "conditions", None)
    if conditions is None:
        raise InputError("this CONTROL_NET is no adapter of RapidDraw; apply it with the stock node Apply ControlNet")
    hint = merge_hints(given, conditions)
    first, second = attach_control((positive, negative), control_net, hint, strength, start, end)
    return first, second


def check_control(strength: float, start: float, end: float) -> None:
    """Raise :class:`InputError` for a strength outside -10 to 10, or for parts outside 0 to 1."""
    if not (math.isfinite(strength) and abs(strength) <= MAX_STRENGTH):
        raise InputError(f"strength={strength}: expected -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}; 1 is what the adapter was trained with")
    if not (0 <= start <= 1 and 0 <= end <= 1):
        raise InputError(f"start={start}, end={end}: parts of the sampling lie between 0 and 1")
