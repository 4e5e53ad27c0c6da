"""Acceleration of a MODEL, CLIP, VAE and UPSCALE_MODEL together, and its report: the work of the Compile node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..host import current
from ..metrics.blocks import is_transformer
from ..speed.accelerator import Accelerator, accelerator_for
from ..speed.around import AroundUpscaler
from ..speed.plan import Options

PARTS = ("model", "clip", "vae", "upscale_model")
_NAMES = {"model": "U-Net", "clip": "text encoder", "vae": "VAE", "upscale_model": "upscaler"}


def speed_up(parts: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return clones of the parts (keys of :data:`PARTS`; None stays None) whose networks run under `options`. The originals are unchanged.

    Nothing is measured here: that happens in the first evaluations, on their own arguments. Raises :class:`InputError` for options out of
    range.
    """
    host = current()
    done: dict[str, Any] = {}
    found: dict[str, Accelerator] = {}
    for part in PARTS:
        whole = parts.get(part)
        if whole is None:
            done[part] = None
            continue
        network = whole.model if part == "upscale_model" else host.speed.network_of(part, whole)
        name = "transformer" if part == "model" and is_transformer(network) else _NAMES[part]
        accelerator = accelerator_for(name, network, options)
        found[part] = accelerator
        done[part] = (
            AroundUpscaler(whole, accelerator.run) if part == "upscale_model" else host.speed.run_around(part, whole, accelerator.run)
        )
    for accelerator in found.values():
        accelerator.companions = {name: other for name, other in found.items() if other is not accelerator}
    return done


def report_of(model: Any) -> str:
    """Return the measurements and decisions for a MODEL of :func:`speed_up` and for the parts accelerated with it."""
    run = current().speed.runner_of(model)
    accelerator = getattr(run, "__self__", None)
    if not isinstance(accelerator, Accelerator):
        return "this MODEL has not been through Compile"
    return "\n".join(one.report() for one in (accelerator, *accelerator.companions.values()))
