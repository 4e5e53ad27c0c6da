"""Sections that nodes and help pages cite are in the papers, and the Chinese texts give the same numbers as the English ones."""

from __future__ import annotations

import re

import pytest
import rapiddraw
from rapiddraw.cli.node_docs import read_translations, texts
from rapiddraw.core.paths import pack_root

ROOT = pack_root()
PAPERS = {
    "Rapid Diffusion": {
        "1", "2", "2.1", "2.2", "3", "3.1", "3.1.1", "3.1.2", "3.1.3", "3.2", "3.2.1", "3.2.2", "4", "4.1", "4.2", "4.3", "4.4", "4.5",
        "4.6", "5", "5.1", "5.2", "6",
    },
    "PanGu-Draw": {"1", "2", "3", "4", "4.1", "4.2", "5", "5.1", "5.2", "5.3", "6", "7", "8", "9", "9.1", "9.2", "10"},
    "ELR-Diffusion": {
        "1", "2", "2.1", "2.2", "2.2.1", "2.2.2", "2.3", "2.3.1", "2.3.2", "2.4", "3", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "4", "5",
    },
}  # fmt: skip
"""The sections of each paper, read off the papers."""
SUBJECTS = {
    ("PanGu-Draw", "structure model"): {"4.1", "5.3"},
    ("PanGu-Draw", "Coop-Diffusion"): {"4.2", "5.2"},
    ("ELR-Diffusion", "Kronecker"): {"2.4"},
    ("ELR-Diffusion", "adapter"): {"2.4"},
    ("ELR-Diffusion", "low-rank"): {"2.2", "2.2.1", "2.2.2"},
    ("ELR-Diffusion", "SVD"): {"2.2", "2.2.1", "2.2.2"},
    ("Rapid Diffusion", "knowledge graph"): {"3.1.1", "5.1"},
}
"""Where a text names a subject, the sections of the paper that treat it."""
CITED = re.compile(rf"({'|'.join(PAPERS)})(?:'s)?[^.;:]{{0,60}}?\bsections? (\d+(?:\.\d+)*)")
NUMBER = re.compile(r"\d+\.\d+(?:\.\d+)*")
PAGES = sorted((ROOT / "web" / "docs").glob("*.md"))
TRANSLATIONS = read_translations(ROOT)


def cited(text: str) -> list[tuple[str, str]]:
    """The sections that an English text cites, each with its paper."""
    return CITED.findall(text)


def every_text() -> list[str]:
    return [*texts(rapiddraw.NODE_CLASS_MAPPINGS), *(path.read_text(encoding="utf-8") for path in PAGES)]


def test_every_section_exists_in_its_paper():
    found = [one for text in every_text() for one in cited(text)]
    assert len(found) > 60, "the pattern finds too little"
    assert [one for one in found if one[1] not in PAPERS[one[0]]] == []


@pytest.mark.parametrize(("paper", "subject"), SUBJECTS)
def test_a_subject_is_cited_from_its_own_section(paper, subject):
    """In descriptions of nodes, where one sentence has one subject."""
    about = [node.DESCRIPTION for node in rapiddraw.NODE_CLASS_MAPPINGS.values() if subject in node.DESCRIPTION]
    numbers = {number for text in about for of, number in cited(text) if of == paper}
    assert numbers <= SUBJECTS[paper, subject]


def test_a_translation_has_the_numbers_of_its_text():
    """Sections, defaults and measurements with a decimal point; whole numbers may be words in one of the languages."""

    def differ(text):
        return set(NUMBER.findall(text)) != set(NUMBER.findall(TRANSLATIONS[text]))

    assert [text for text in TRANSLATIONS if differ(text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_chinese_page_has_the_numbers_of_the_english_one(page):
    chinese = (page.parent / page.stem / "zh.md").read_text(encoding="utf-8")
    assert set(NUMBER.findall(chinese)) == set(NUMBER.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two models (PanGu-Draw, section 4.1).", [("PanGu-Draw", "4.1")]),
        ("Rapid Diffusion marks every picture before it is sent (section 5.1).", [("Rapid Diffusion", "5.1")]),
        ("ELR-Diffusion, Table 1: 790 of 1290 million, 0.61", []),
    ],
)
def test_citations_are_found(text, found):
    assert cited(text) == found
