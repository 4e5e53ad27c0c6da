"""Attention patches on a MODEL's `transformer_options`, the same in every host: ComfyUI's `optimized_attention_override`, chained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .patch import AttentionPatch

KEY = "rapiddraw_attention"
"""Where `transformer_options` hold the patches, a tuple, so that a report finds them."""
OVERRIDE = "optimized_attention_override"


def attached(model: Any, patch: AttentionPatch) -> Any:
    """Return a clone of MODEL whose attention calls go through `patch`; MODEL is not changed."""
    patched = model.clone()
    options = patched.model_options.setdefault("transformer_options", {})
    options[OVERRIDE] = chained(options.get(OVERRIDE), patch)
    options[KEY] = (*patches_of(model), patch)
    return patched


def chained(previous: Callable[..., Any] | None, patch: AttentionPatch) -> Callable[..., Any]:
    """Return an override that runs `patch`. An earlier override is still called first, with `patch` in place of the host's function: it may
    do more than compute attention, and what it computes is then computed by the chosen kernel."""
    if previous is None:
        return patch.attend

    def override(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def fast(*given: Any, **options: Any) -> Any:
            return patch.attend(func, *given, **options)

        fast.__name__ = getattr(func, "__name__", "attention")
        return previous(fast, *args, **kwargs)

    return override


def patches_of(model: Any) -> tuple[AttentionPatch, ...]:
    """Return the patches of a MODEL, in the order in which they were added."""
    return tuple(model.model_options.get("transformer_options", {}).get(KEY, ()))


def report_of(model: Any) -> str:
    """Return the reports of all patches of a MODEL, as text."""
    reports = [patch.report() for patch in patches_of(model)]
    return "\n\n".join(reports) or "this MODEL has no attention patch: put FlashAttention Patch between its loader and the sampler"
