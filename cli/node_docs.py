"""The editor's texts about nodes in English and Chinese, written from the node classes: locales/*/nodeDefs.json and web/docs.

English is what a class says of itself. Chinese is looked up by the English text in locales/zh/translations.json, so that a sentence is
translated once and a changed sentence is found missing. `python -m rapiddraw nodes --write-docs` writes all files; a test finds gaps.

A help page says what the node is for, then its inputs and outputs as lists that fit a narrow panel, what it works with, then method,
example and pitfalls. Inputs, outputs and what it works with are written from the class; the sections below a mark `HAND` are written by
hand, in the page itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.graph.inputs import InputSpec, input_specs
from ..nodes.works_with import NO_MODEL

Translate = Callable[[str], str]
CONTROL = "control_after_generate"
HAND = "<!-- By hand: -->\n"
WRITTEN = "<!-- Written by `python -m rapiddraw nodes --write-docs`: -->\n"
SYNTAX = "{}@|"
"""Syntax of vue-i18n, which shows the texts of nodeDefs.json in the editor: a text with one of these would be cut or come out empty."""
_WORDS = {"inputs": "Inputs", "outputs": "Outputs", "works": "Works with", "to": "to", "default": "default", "optional": "optional"}


def files(nodes: Mapping[str, Any], translations: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return every generated file: path from the repository's root to its text. What a page has by hand is kept as `root` has it."""
    found: dict[str, str] = {}
    for language, translate in (("en", str), ("zh", lambda text: translations.get(text, text))):
        found[f"locales/{language}/nodeDefs.json"] = _json({i: definition(node, translate) for i, node in sorted(nodes.items())})
        found[f"locales/{language}/main.json"] = _json({"nodeCategories": {c: translate(c) for c in categories(nodes)}})
        for node_id, node in nodes.items():
            place = f"web/docs/{node_id}.md" if language == "en" else f"web/docs/{node_id}/{language}.md"
            found[place] = page(node_id, node, translate, *hand_written(root / place))
    return found


def texts(nodes: Mapping[str, Any]) -> list[str]:
    """Return every English text that needs a translation, once each."""
    found: dict[str, None] = dict.fromkeys(_WORDS.values())
    found.update(dict.fromkeys(categories(nodes)))
    for node in nodes.values():
        found.update(dict.fromkeys([*_texts_of(definition(node, str)), works_with(node)]))
    return [text for text in found if text]


def read_translations(root: Path) -> dict[str, str]:
    """Return the Chinese text of each English one."""
    return json.loads((root / "locales" / "zh" / "translations.json").read_text(encoding="utf-8"))


def hand_written(path: Path) -> tuple[str, str]:
    """Return the parts of a help page that are written by hand: when to use the node; method, example and pitfalls. Empty where missing."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    first, second = [part.partition(WRITTEN)[0].strip() for part in text.split(HAND)[1:3]] or ("", "")
    return first, second


def categories(nodes: Mapping[str, Any]) -> list[str]:
    """Return the parts of the nodes' categories."""
    return sorted({part for node in nodes.values() for part in node.CATEGORY.split("/")})


def definition(node: Any, translate: Translate) -> dict[str, Any]:
    """Return a node's entry in nodeDefs.json."""
    inputs = {}
    for spec in input_specs(node).values():
        inputs[spec.name] = {"name": translate(label(spec.name)), "tooltip": translate(spec.options.get("tooltip", ""))}
        if spec.is_seed:  # the editor adds this widget by itself
            inputs[CONTROL] = {"name": translate(label(CONTROL))}
    outputs = {}
    for place, (name, tooltip) in enumerate(zip(_names(node), node.OUTPUT_TOOLTIPS, strict=True)):
        outputs[str(place)] = {"name": translate(label(name)), "tooltip": translate(tooltip)}
    entry = {"display_name": translate(node.DISPLAY_NAME), "description": translate(node.DESCRIPTION)}
    return {**entry, **({"inputs": inputs} if inputs else {}), **({"outputs": outputs} if outputs else {})}


def works_with(node: Any) -> str:
    """Return what a node says that it works with; for one without sockets for models, that it needs none."""
    return getattr(node, "WORKS_WITH", NO_MODEL)


def label(name: str) -> str:
    """Return the label of a socket or widget: its name with spaces."""
    return name.replace("_", " ")


def page(node_id: str, node: Any, translate: Translate, use: str, more: str) -> str:
    """Return a node's help page as Markdown; `use` and `more` are its sections by hand."""
    word = {key: translate(text) for key, text in _WORDS.items()}
    inputs = [f"## {word['inputs']}", ""]
    for spec in input_specs(node).values():
        optional = [word["optional"]] if spec.category == "optional" else []
        inputs.append(_item(spec.name, [spec.type, *_values(spec, word), *optional], translate(spec.options.get("tooltip", ""))))
    outputs = []
    if node.RETURN_TYPES:
        outputs = ["", f"## {word['outputs']}", ""]
        rows = zip(_names(node), node.RETURN_TYPES, node.OUTPUT_TOOLTIPS, strict=True)
        outputs += [_item(name, [kind], translate(tooltip)) for name, kind, tooltip in rows]
    works = ["", f"## {word['works']}", "", translate(works_with(node))]
    head = [f"# {translate(node.DISPLAY_NAME)}", "", translate(node.DESCRIPTION), "", f"{HAND}", use, ""]
    return "\n".join([*head, WRITTEN, *inputs, *outputs, *works, "", f"`{node_id}`", "", HAND, more, ""])


def _item(name: str, facts: list[str], tooltip: str) -> str:
    return f"- **`{name}`** · {' · '.join(facts)}<br>{tooltip.replace(chr(10), '<br>')}"


def _values(spec: InputSpec, word: Mapping[str, str]) -> list[str]:
    options, parts = spec.options, []
    if spec.choices is not None and "default" in options:  # a list of files is another on every machine
        parts.append(", ".join(map(str, spec.choices)))
    if "min" in options:
        parts.append(f"{options['min']} {word['to']} {options['max'] if options['max'] < 2**63 else '2^64 - 1'}")
    if str(options.get("default", "")) != "":
        parts.append(f"{word['default']} `{options['default']}`".replace("\n", "` / `"))
    return parts


def _names(node: Any) -> tuple[str, ...]:
    return getattr(node, "RETURN_NAMES", None) or node.RETURN_TYPES


def _texts_of(entry: Any) -> Iterator[str]:
    for value in entry.values():
        if isinstance(value, dict):
            yield from _texts_of(value)
        else:
            yield value


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
