"""Names, tooltips and help pages in English and Chinese are complete and as the node classes say. See cli/node_docs.py."""

from __future__ import annotations

import pytest
import rapiddraw
from rapiddraw.cli.node_docs import files, read_translations, texts
from rapiddraw.core.paths import pack_root

NODES, ROOT = rapiddraw.NODE_CLASS_MAPPINGS, pack_root()
TRANSLATIONS = read_translations(ROOT)
FILES = files(NODES, TRANSLATIONS)
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
