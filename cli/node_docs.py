"""What the editor shows of a node in English and Chinese, written from the node classes: locales/*/nodeDefs.json and web/docs.

English is what a class says of itself. Chinese is looked up by the English text in locales/zh/translations.json, so that a sentence is
translated once and a changed one is found missing. `python -m rapiddraw nodes --write-docs` writes all files; a test finds gaps.

Below the mark a help page is written by hand, in the page itself: when to use the node, its method, an example, pitfalls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.graph.inputs import InputSpec, input_specs

Translate = Callable[[str], str]
CONTROL = "control_after_generate"
MARK = "<!-- Above: written by `python -m rapiddraw nodes --write-docs`. Below: by hand. -->\n"
SYNTAX = "{}@|"
"""What vue-i18n, to which the editor hands all texts of nodeDefs.json, takes for syntax: such a text would be cut or come out empty."""
_WORDS = {"inputs": "Inputs", "outputs": "Outputs", "input": "input", "output": "output", "type": "type", "what": "what it does",
          "values": "values", "to": "to", "default": "default", "optional": "optional"}  # fmt: skip


def files(nodes: Mapping[str, Any], translations: Mapping[str, str], root: Path) -> dict[str, str]:
    """Every generated file: path from the repository's root to its text. What is below a page's mark is kept as `root` has it."""
    found: dict[str, str] = {}
    for language, translate in (("en", str), ("zh", lambda text: translations.get(text, text))):
        found[f"locales/{language}/nodeDefs.json"] = _json({i: definition(node, translate) for i, node in sorted(nodes.items())})
        found[f"locales/{language}/main.json"] = _json({"nodeCategories": {c: translate(c) for c in categories(nodes)}})
        for node_id, node in nodes.items():
            place = f"web/docs/{node_id}.md" if language == "en" else f"web/docs/{node_id}/{language}.md"
            found[place] = f"{page(node_id, node, translate)}\n{MARK}{hand_written(root / place)}"
    return found


def texts(nodes: Mapping[str, Any]) -> list[str]:
    """Every English text that needs a translation, once each."""
    found: dict[str, None] = dict.fromkeys(_WORDS.values())
    found.update(dict.fromkeys(categories(nodes)))
    for node in nodes.values():
        found.update(dict.fromkeys(_texts_of(definition(node, str))))
    return [text for text in found if text]


def read_translations(root: Path) -> dict[str, str]:
    """English to Chinese."""
    return json.loads((root / "locales" / "zh" / "translations.json").read_text(encoding="utf-8"))


def hand_written(path: Path) -> str:
    """The part of a help page that is not generated, empty where there is none yet."""
    return path.read_text(encoding="utf-8").partition(MARK)[2] if path.is_file() else ""


def categories(nodes: Mapping[str, Any]) -> list[str]:
    """The parts of the nodes' categories."""
    return sorted({part for node in nodes.values() for part in node.CATEGORY.split("/")})


def definition(node: Any, translate: Translate) -> dict[str, Any]:
    """A node's entry in nodeDefs.json."""
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


def label(name: str) -> str:
    """What a socket or widget is called: its name with spaces."""
    return name.replace("_", " ")


def page(node_id: str, node: Any, translate: Translate) -> str:
    """A node's help page, as Markdown."""
    word = {key: translate(text) for key, text in _WORDS.items()}
    lines = [f"# {translate(node.DISPLAY_NAME)}", "", translate(node.DESCRIPTION), "", f"## {word['inputs']}", ""]
    lines += [f"| {word['input']} | {word['type']} | {word['values']} | {word['what']} |", "| --- | --- | --- | --- |"]
    for spec in input_specs(node).values():
        name = f"`{spec.name}`" + (f" ({word['optional']})" if spec.category == "optional" else "")
        lines.append(f"| {name} | {spec.type} | {_values(spec, word)} | {_cell(translate(spec.options.get('tooltip', '')))} |")
    if node.RETURN_TYPES:
        lines += ["", f"## {word['outputs']}", "", f"| {word['output']} | {word['type']} | {word['what']} |", "| --- | --- | --- |"]
        for name, kind, tooltip in zip(_names(node), node.RETURN_TYPES, node.OUTPUT_TOOLTIPS, strict=True):
            lines.append(f"| `{name}` | {kind} | {_cell(translate(tooltip))} |")
    return "\n".join([*lines, "", f"`{node_id}`", ""])


def _values(spec: InputSpec, word: Mapping[str, str]) -> str:
    options, parts = spec.options, []
    if spec.choices is not None and "default" in options:  # a list of files is another on every machine
        parts.append(", ".join(map(str, spec.choices)))
    if "min" in options:
        parts.append(f"{options['min']} {word['to']} {options['max'] if options['max'] < 2**63 else '2^64 - 1'}")
    if str(options.get("default", "")) != "":
        parts.append(f"{word['default']} `{options['default']}`")
    return _cell("; ".join(parts))


def _names(node: Any) -> tuple[str, ...]:
    return getattr(node, "RETURN_NAMES", None) or node.RETURN_TYPES


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def _texts_of(entry: Any) -> Iterator[str]:
    for value in entry.values():
        if isinstance(value, dict):
            yield from _texts_of(value)
        else:
            yield value


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
