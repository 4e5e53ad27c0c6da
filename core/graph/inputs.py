"""Inputs as a node class declares them: one reading of `INPUT_TYPES`, shared by conversion, validation and execution.

The rules are ComfyUI's: an input is `(type, options)`; a list as type is a combo; the types in `WIDGET_TYPES` are drawn as widgets unless
`forceInput` is set; everything else is a socket that takes a link.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

Registry = Mapping[str, type]
"""Node classes by id. `core` is handed one; it knows no node itself."""

DYNAMIC_COMBO, AUTOGROW = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"
"""Types of inputs that bring more inputs, named `parent.child`: those of the option chosen, and a list that grows with its links."""
WIDGET_TYPES = (
    "INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC_COMBO, "COLOR", "COLORS", "BOUNDING_BOX", "BOUNDING_BOXES", "CURVE", "RANGE",
    "COMPOSITOR", "PAINTER", "IMAGECOMPARE", "MARKDOWN", "TEXTAREA", "CHART", "GALLERIA", "VIDEO_EDIT", "LOAD_3D",
)  # fmt: skip
CONTROL_VALUES = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
SEED_NAMES = ("seed", "noise_seed")
MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class InputSpec:
    """One declared input. `category` is `required` or `optional`; `choices` is set for combos only."""

    name: str
    type: str
    category: str
    options: dict[str, Any] = field(default_factory=dict)
    choices: tuple[Any, ...] | None = None

    @property
    def is_widget(self) -> bool:
        """Whether the editor draws it as a widget, so that its value is stored by position in `widgets_values`."""
        return self.options.get("widgetType", self.type) in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def is_seed(self) -> bool:
        """Whether the editor adds a `control_after_generate` widget behind it."""
        if self.type not in ("INT", "COMBO"):
            return False
        default = self.type == "INT" and self.name in SEED_NAMES
        return bool(self.options.get("control_after_generate", default))

    @property
    def is_upload(self) -> bool:
        """Whether the editor adds an upload button behind it, which stores an entry of its own."""
        return bool(self.options.get("image_upload"))

    @property
    def default(self) -> Any:
        """The value a freshly drawn widget has."""
        if "default" in self.options:
            return self.options["default"]
        if self.choices is not None:
            return self.choices[0] if self.choices else None
        return copy.copy(_DEFAULTS.get(self.type))


_DEFAULTS: dict[str, Any] = {
    "INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "COLOR": "#000000", "COLORS": [], "IMAGECOMPARE": ["", ""],
    "BOUNDING_BOX": {"x": 0, "y": 0, "width": 512, "height": 512}, "BOUNDING_BOXES": [], "RANGE": {"min": 0.0, "max": 1.0},
    "CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"},
}  # fmt: skip


def input_specs(node_class: type) -> dict[str, InputSpec]:
    """Return the declared inputs of `node_class` in the order the editor draws them: required first, then optional."""
    return declared_specs(node_class.INPUT_TYPES())  # type: ignore[attr-defined]


def declared_specs(declared: Mapping[str, Any], prefix: str = "") -> dict[str, InputSpec]:
    """Return the inputs in the answer of an `INPUT_TYPES`, or in one option of a dynamic combo, with `prefix` before each name."""
    specs: dict[str, InputSpec] = {}
    for category in ("required", "optional"):
        for name, entry in (declared.get(category) or {}).items():
            kind, options = entry[0], dict(entry[1]) if len(entry) > 1 and entry[1] else {}
            choices: tuple[Any, ...] | None = None
            if isinstance(kind, list | tuple):
                kind, choices = "COMBO", tuple(kind)
            elif kind == "COMBO":
                choices = tuple(options.get("options") or ())
            elif kind == DYNAMIC_COMBO:
                choices = tuple(option["key"] for option in options.get("options") or ())
            specs[prefix + name] = InputSpec(prefix + name, str(kind), category, options, choices)
    return specs


class SpecsOf(dict[str, dict[str, InputSpec]]):
    """The inputs of node classes by id, each class asked once: `INPUT_TYPES` may list folders. Empty for an unknown class."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry

    def __missing__(self, kind: str) -> dict[str, InputSpec]:
        node_class = self._registry.get(kind)
        self[kind] = input_specs(node_class) if node_class else {}
        return self[kind]


def hidden_inputs(node_class: type) -> dict[str, str]:
    """Return the hidden inputs by name, e.g. `{"prompt": "PROMPT"}`."""
    return dict(node_class.INPUT_TYPES().get("hidden") or {})  # type: ignore[attr-defined]


def is_link(value: Any) -> TypeGuard[list[Any]]:
    """Return whether a value of the API format is a link `[node id, slot]`."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def links_of(node: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Return the linked inputs of one node of the API format: input name to (node id, slot)."""
    return {name: (value[0], value[1]) for name, value in node.get("inputs", {}).items() if is_link(value)}


def unwrap(value: Any) -> Any:
    """Return the constant behind `{"__value__": [...]}`, the API format's way to tell a list from a link."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def coerce(value: Any, spec: InputSpec) -> Any:
    """Return a constant as the node receives it, converted the way ComfyUI does. Raises `ValueError`/`TypeError` where that is
    impossible."""
    value = unwrap(value)
    if spec.type == "INT":
        return int(value)
    if spec.type == "FLOAT":
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("it is not a finite number")
        return number
    if spec.type == "STRING":
        return str(value)
    if spec.type == "BOOLEAN":
        return bool(value)
    return value


def title_of(node: Mapping[str, Any]) -> str:
    """Return the title a user gave the node, or an empty string."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) else ""


def describe(node_id: str, node: Mapping[str, Any]) -> str:
    """Return how every message names a node: `node 7 KSampler "Sample the picture"`."""
    kind, title = node.get("class_type", "?"), one_line(title_of(node), 60)
    return f'node {node_id} {kind} "{title}"' if title and title != kind else f"node {node_id} {kind}"


def one_line(text: object, limit: int = 80) -> str:
    """Return `text` on one line, cut to `limit` characters."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def nearest(name: object, known: Iterable[object]) -> str | None:
    """Return the known name that looks most like `name`, or `None` where none is close. Case does not matter."""
    by_lower = {str(item).lower(): str(item) for item in known}
    found = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None
