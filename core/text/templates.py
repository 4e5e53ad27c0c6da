"""Prompt templates: `the photo of {object}` around what the user names (Rapid Diffusion, section 3.1.1)."""

from __future__ import annotations

from ..errors import InputError

OBJECT = "{object}"


def apply_template(template: str, text: str) -> str:
    """Return `text` in the place of `{object}`. An empty text stays empty: it is the null prompt, which no template may fill.

    An empty template means `{object}`. Raises :class:`InputError` where a template has no `{object}`.
    """
    template = template.strip() or OBJECT
    if OBJECT not in template:
        raise InputError(f"prompt_template {template[:80]!r} has no {OBJECT}: write for example 'the photo of {OBJECT}'")
    return template.replace(OBJECT, text) if text.strip() else text
