"""Plain English in what people read: no word that a reader whose first language is another has to look up or to guess."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rapiddraw import NODE_CLASS_MAPPINGS
from rapiddraw.cli.node_docs import texts
from rapiddraw.core.graph.inputs import input_specs
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.core.paths import pack_root

ROOT = pack_root()
INSTEAD = {
    r"walks?|walked|walking": "sampling run (or step, go through, traverse)",
    "anew": "again",
    "whence|thereof|therein|whereof": "from which, of it, in it, of which",
    "ever after": "from then on",
    "have (its|their) say": "act, take effect",
    "what it takes": "its estimate of, what is needed",
}
"""Odd words, and what to write instead."""
ODD = re.compile(rf"\b({'|'.join(INSTEAD)})\b", re.IGNORECASE)
CODE = re.compile(r"```.*?```|``[^`]+``|`[^`\n]+`|^    .*$", re.DOTALL | re.MULTILINE)


def docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module and of its public classes and functions; a string below a public constant counts as one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and not getattr(node, "name", "").startswith("_"):
            yield ast.get_docstring(node) or ""
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def odd_words(text: str) -> list[str]:
    """The odd words of a text; identifiers and code are left out."""
    return [found[0].lower() for found in ODD.finditer(CODE.sub(" ", text))]


SOURCES = sorted(path for part in ("core", "nodes", "api", "serve", "cli", "benchmarks") for path in (ROOT / part).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "weights" / "README.md", *(ROOT / "web" / "docs").glob("*.md")])


def test_documents_and_docstrings_are_in_plain_words() -> None:
    found = {path.relative_to(ROOT).as_posix(): odd_words(" ".join(docstrings(path))) for path in SOURCES}
    found |= {path.relative_to(ROOT).as_posix(): odd_words(path.read_text(encoding="utf-8")) for path in PAGES}
    assert not {name: words for name, words in found.items() if words}, f"write instead: {INSTEAD}"


def test_texts_of_nodes_are_in_plain_words() -> None:
    said = texts(NODE_CLASS_MAPPINGS)
    for node in STOCK_NODES.values():
        said += [getattr(node, "DESCRIPTION", ""), *(spec.options.get("tooltip", "") for spec in input_specs(node).values())]
    assert not [(text, words) for text in said if (words := odd_words(text))], f"write instead: {INSTEAD}"


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_notes_and_titles_of_saved_graphs_are_in_plain_words(path: Path) -> None:
    graph = json.loads(path.read_text(encoding="utf-8"))
    said = [str(one) for node in graph["nodes"] for one in (node.get("title"), *(node["widgets_values"] if "Note" in node["type"] else ()))]
    said += [group["title"] for group in graph.get("groups", ())]
    assert not odd_words(" ".join(said)), f"write instead: {INSTEAD}"


@pytest.mark.parametrize(("text", "found"), [("A walk, anew.", ["walk", "anew"]), ("`Walk` of :class:`Walks`", []), ("sidewalk", [])])
def test_words_are_found_and_identifiers_are_not(text: str, found: list[str]) -> None:
    assert odd_words(text) == found
