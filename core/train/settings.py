"""What a recipe's settings mean: the comment beside each field of its dataclass, which is where they are explained once."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields

from . import recipe_class

_FIELD = re.compile(r"^    (\w+): [^=#]+ = .*?(?:  # (.+))?$", re.MULTILINE)


@dataclass(frozen=True)
class Setting:
    """A setting of a recipe: its `name`, its `default` as Python writes it, and a `note` on what it does."""

    name: str
    default: str
    note: str


def settings_of(name: str) -> list[Setting]:
    """Return the settings of the recipe `name`, in their order. Raises :class:`InputError` for an unknown recipe.

    A setting to which a recipe gives another default keeps the note of the recipe that it comes from.
    """
    cls = recipe_class(name)
    notes: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        found = {field: note for field, note in _FIELD.findall(inspect.getsource(base)) if note and not note.startswith(("type:", "noqa"))}
        notes |= found
    default = cls()
    return [Setting(field.name, repr(getattr(default, field.name)), notes.get(field.name, "")) for field in fields(cls) if field.init]


def example_of(name: str) -> str:
    """Return the command that the docstring of the recipe's module shows, or an empty text."""
    module = inspect.getmodule(recipe_class(name))
    lines = (inspect.getdoc(module) or "").splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("    python -m rapiddraw train ")), None)
    if first is None:
        return ""
    last = first
    while lines[last].endswith("\\"):
        last += 1
    return "\n".join(line[4:] for line in lines[first : last + 1])
