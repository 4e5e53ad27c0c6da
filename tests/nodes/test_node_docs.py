"""Names, tooltips and help pages in English and Chinese are complete and as the node classes say. See cli/node_docs.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import rapiddraw
from rapiddraw.cli.node_docs import HAND, SYNTAX, WRITTEN, files, hand_written, read_translations, texts, works_with
from rapiddraw.core.graph.inputs import input_specs
from rapiddraw.core.graph.shipped import shipped_graphs, template_name
from rapiddraw.core.paths import pack_root
from rapiddraw.nodes.works_with import ANY_MODEL, ANY_SAMPLER, MODEL_SOCKETS, NO_MODEL

NODES, ROOT = rapiddraw.NODE_CLASS_MAPPINGS, pack_root()
TRANSLATIONS = read_translations(ROOT)
FILES = files(NODES, TRANSLATIONS, ROOT)
AGAIN = "python -m rapiddraw nodes --write-docs"


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_is_what_the_node_classes_say(name):
    assert (ROOT / name).is_file(), f"missing: {AGAIN}"
    assert (ROOT / name).read_text(encoding="utf-8") == FILES[name], f"out of date: {AGAIN}"


def test_everything_is_translated():
    assert [text for text in texts(NODES) if text not in TRANSLATIONS] == [], "add them to locales/zh/translations.json"


def test_no_translation_is_left_over():
    assert sorted(set(TRANSLATIONS) - set(texts(NODES))) == []


def test_translations_are_chinese():
    def is_chinese(text):
        return any("\u4e00" <= character <= "\u9fff" for character in text)

    names = {"CLIP", "VAE", "JSON", "RapidDraw"}
    assert [text for text in TRANSLATIONS.values() if not is_chinese(text) and text not in names] == []


def test_no_page_is_left_over():
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "web" / "docs").rglob("*.md")}
    assert pages == {name for name in FILES if name.startswith("web/")}


@pytest.mark.parametrize("node_id", sorted(NODES))
def test_a_page_says_by_hand_when_how_and_what_to_watch(node_id):
    """Both languages have the same sections by hand: when to use it, method, example, pitfalls."""
    pages = ["\n\n".join(hand_written(ROOT / "web" / "docs" / name)) for name in (f"{node_id}.md", f"{node_id}/zh.md")]
    titles = [[line for line in page.splitlines() if line.startswith("#")] for page in pages]
    assert titles[0] == ["## When to use it", "## Method", "## Example", "## Pitfalls"], f"write them below the lines {HAND}"
    assert len(titles[1]) == len(titles[0]) and titles[1] != titles[0], "the Chinese page needs the same sections"
    for page in pages:
        assert all(section.partition("\n")[2].strip() for section in page.split("## ")[1:]), "a section is empty"


@pytest.mark.parametrize("node_id", sorted(NODES))
def test_a_chinese_page_has_the_paragraphs_and_points_of_the_english_one(node_id):
    pages = ["\n\n".join(hand_written(ROOT / "web" / "docs" / name)) for name in (f"{node_id}.md", f"{node_id}/zh.md")]
    paragraphs, points = ([[section.count(mark) for section in page.split("## ")] for page in pages] for mark in ("\n\n", "\n- "))
    assert paragraphs[0] == paragraphs[1] and points[0] == points[1]


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("web/")))
def test_a_page_says_first_what_it_is_for_and_fits_a_narrow_panel(name):
    text = FILES[name]
    places = [text.index(mark) for mark in (HAND, WRITTEN)] + [text.rindex(HAND)]
    assert places == sorted(set(places)) and text.count(HAND) == 2
    assert "## " not in text[: places[0]] and text[places[0] :].count("## ") >= 4
    assert "\n| " not in text, "a table needs more width than the panel has: write a list"


@pytest.mark.parametrize("node_id", sorted(NODES))
@pytest.mark.parametrize("place", ["{}.md", "{}/zh.md"])
def test_the_example_is_a_template_that_has_the_node(place, node_id):
    """The section Example names a template in backticks, by the name that ComfyUI's template browser shows."""
    page = hand_written(ROOT / "web" / "docs" / place.format(node_id))[1]
    named = set(re.findall("`([^`\n]+)`", page.split("## ")[2]))
    templates = {template_name(name): name for name in shipped_graphs()}
    assert not named & (shipped_graphs().keys() - templates.keys()), "name a template as the browser shows it"
    having = {one for one, name in templates.items() if node_id in _classes(shipped_graphs()[name])}
    assert named & having, f"name one of {sorted(having)}"
    assert named & templates.keys() <= having, "a template that is named there does not have this node"


def _classes(path: Path) -> set[str]:
    return {node["class_type"] for node in json.loads(path.read_text(encoding="utf-8")).values()}


@pytest.mark.parametrize("node_id", sorted(NODES))
def test_a_node_with_sockets_for_models_says_what_it_works_with(node_id):
    node = NODES[node_id]
    sockets = {kind for spec in input_specs(node).values() for kind in spec.type.split(",") if not spec.is_widget} | set(node.RETURN_TYPES)
    assert not sockets & MODEL_SOCKETS or works_with(node) != NO_MODEL, "write WORKS_WITH: see nodes/works_with.py"


def _rows() -> Iterator[tuple[str, list[str]]]:
    """(Node, families that the node refuses) of the measured matrix."""
    known = json.loads((ROOT / "tests" / "data" / "families.json").read_text(encoding="utf-8"))
    for row, cells in known["matrix"].items():
        yield row.split()[0], [family for family, cell in cells.items() if cell != "works"]


@pytest.mark.parametrize(("name", "refused"), list(_rows()))
def test_what_a_node_works_with_is_what_was_measured(name, refused):
    said = works_with(NODES[f"RapidDraw{name}"])
    assert (said in (ANY_MODEL, ANY_SAMPLER)) == (not refused), refused


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_editor_can_say_every_text(language):
    def walk(entry):
        for value in entry.values():
            yield from walk(value) if isinstance(value, dict) else [value]

    said = walk(json.loads(FILES[f"locales/{language}/nodeDefs.json"]))
    assert [text for text in said if set(text) & set(SYNTAX)] == [], f"vue-i18n takes {SYNTAX} for syntax: say it in other words"
