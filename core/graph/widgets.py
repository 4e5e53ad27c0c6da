"""Widgets of one node of the editor: which inputs it has at the moment, and where the file stores their values.

Values are stored by position, in the order of the node class's inputs. Some widgets store entries of the editor's own beside their value;
a dynamic combo is followed by the inputs of the option that is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .inputs import AUTOGROW, CONTROL_VALUES, DYNAMIC_COMBO, InputSpec, declared_specs

NOT_STORED = ("IMAGECOMPARE",)
"""Types of widgets that the editor sends but does not write into a file."""
_BUTTONS = {"LOAD_3D": ("upload3dmodel", "uploadExtraResources", "clear")}
"""What the buttons store that the editor draws above a widget of that type."""
_PARTS = {"BOUNDING_BOX": 4}
"""The number of parts that a widget of that type stores once more, each by itself, behind its value."""


def live_specs(node: Mapping[str, Any], specs: Mapping[str, InputSpec]) -> dict[str, InputSpec]:
    """Return the inputs that a UI node has at the moment: `specs`, and behind each dynamic combo those of the option chosen there."""
    return {spec.name: spec for spec, _ in _placed(node, specs)}


def widget_values(node: Mapping[str, Any], specs: Mapping[str, InputSpec]) -> dict[str, Any]:
    """Return the widget values of one UI node by input name. Values that are missing at the end take their defaults."""
    return {spec.name: _value(node, spec, position) for spec, position in _placed(node, specs) if spec.is_widget}


def widget_positions(node: Mapping[str, Any], specs: Mapping[str, InputSpec]) -> dict[str, int]:
    """Return where the value of each widget stands in `widgets_values`, by input name. Files from before an extra entry existed are read
    as well."""
    return {spec.name: position for spec, position in _placed(node, specs) if spec.is_widget}


def takes_link(name: str, specs: Mapping[str, InputSpec]) -> bool:
    """Return whether a node with these inputs has an input `name`: a declared one, or one that grows from a list (`images.image0`)."""
    heads = (name[:place] for place, letter in enumerate(name) if letter == ".")
    return name in specs or any(head in specs and specs[head].type == AUTOGROW for head in heads)


def _placed(node: Mapping[str, Any], specs: Mapping[str, InputSpec]) -> Iterator[tuple[InputSpec, int]]:
    """Each input with the position of its value; that of an input without a stored value means nothing."""
    stored = node.get("widgets_values")
    entries = stored if isinstance(stored, list) else []
    waiting, position = [*specs.values()][::-1], 0

    def next_is(*allowed: str) -> bool:
        return position < len(entries) and entries[position] in allowed

    while waiting:
        spec = waiting.pop()
        if not spec.is_widget:
            yield spec, -1
            continue
        while next_is(*_BUTTONS.get(spec.type, ())):
            position += 1
        yield spec, position
        if spec.type == DYNAMIC_COMBO:
            waiting += reversed(_chosen(spec, _value(node, spec, position)))
        position += spec.type not in NOT_STORED
        if spec.is_seed and next_is(*CONTROL_VALUES):
            position += 1
            if spec.type == "COMBO":
                position += 1  # a combo gets a filter text as well
        elif spec.is_upload and next_is("image"):
            position += 1
        position += _PARTS.get(spec.type, 0)


def _value(node: Mapping[str, Any], spec: InputSpec, position: int) -> Any:
    stored = node.get("widgets_values")
    if isinstance(stored, Mapping):  # some packs store them by name
        return stored.get(spec.name, spec.default)
    if isinstance(stored, list) and position < len(stored) and spec.type not in NOT_STORED:
        return stored[position]
    return spec.default


def _chosen(spec: InputSpec, key: Any) -> list[InputSpec]:
    """The inputs that one option of a dynamic combo brings."""
    options = spec.options.get("options")
    found = next((option for option in options or () if isinstance(option, Mapping) and option.get("key") == key), {})
    return list(declared_specs(found.get("inputs") or {}, f"{spec.name}.").values())
