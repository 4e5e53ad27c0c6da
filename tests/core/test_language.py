"""One form for all writings of a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapiddraw.core import paths
from rapiddraw.core.data.folder import ImageFolder, check_folder
from rapiddraw.core.data.places import fingerprint, new_folder, resolve_folder
from rapiddraw.core.data.recaption import Captioning, recaption_folder
from rapiddraw.core.errors import DataError, InvalidGraphError, RapidDrawError
from rapiddraw.core.knowledge.attach import KnowledgeReader
from rapiddraw.core.knowledge.choices import load_chosen_projection, load_graph, write_projection
from rapiddraw.core.knowledge.fit import Selection, fit_projection
from rapiddraw.core.knowledge.graph import build_graph
from rapiddraw.core.knowledge.projection import Projection
from rapiddraw.core.knowledge.triples import load_triples
from rapiddraw.core.language import folded_name, is_text, plain_characters, plain_name
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.orchard.entities import entities, triples
from rapiddraw.core.text.causal import resolve_model
from rapiddraw.core.text.prompts import generate_prompts
from rapiddraw.core.text.templates import apply_template
from rapiddraw.core.text.tokenizer import SPECIALS, check_vocabulary
from rapiddraw.tests import helpers

LETTERS = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from(
            "'-\u2019\u02bc\u2010\u2011\u2013\u2212\u200b\ufeff\u00ad\u3000\u00a0\ufb01\ufb03\uff41\uff21\u0301\ufe0f\u30fb\u00b7\u00b4 "
        ),
    ),
    max_size=30,
)


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("\ufeffa", "a"),
        ("a\u200bb", "ab"),
        ("a\u00adb", "ab"),
        ("o\u2019hara", "o'hara"),
        ("o\u02bchara", "o'hara"),
        ("o\uff07hara", "o'hara"),
        ("o\u00b4hara", "o'hara"),
        ("red\u2011pear", "red-pear"),
        ("red\u2013pear", "red-pear"),
        ("red\u2212pear", "red-pear"),
        ("\uff2d\uff49\uff52\uff41", "Mira"),
        ("\ufb01g", "fig"),
        ("cafe\u0301", "caf\u00e9"),
        ("cafe\u200b\u0301", "caf\u00e9"),
        (" red \u3000 pear\u00a0", "red pear"),
        ("a\u30fbb", "a\u00b7b"),
        ("\ufe0fa", "a"),
    ],
)
def test_writings_of_one_name_are_one(written, plain):
    assert plain_name(written) == plain
    assert folded_name(written.upper() if written.isascii() else written) == plain.casefold()


@given(LETTERS)
def test_the_form_is_stable(text):
    plain = plain_name(text)
    assert plain_name(plain) == plain
    assert folded_name(folded_name(text)) == folded_name(text)
    assert plain == " ".join(plain.split())


@given(LETTERS)
def test_characters_cover_the_text_in_order(text):
    ranges = [(start, end) for _, start, end in plain_characters(text)]
    assert all(0 <= start < end <= len(text) for start, end in ranges)
    assert all(one == other or one[1] <= other[0] for one, other in zip(ranges, ranges[1:], strict=False))


def test_the_names_of_the_orchard_are_plain_already():
    names = [name for e in entities() for found in e.aliases.values() for name in found]
    assert all(plain_name(name) == name for name in [*names, *(part for row in triples() for part in row)])


def test_a_lone_surrogate_is_no_text():
    assert is_text("caf\u00e9 \U0001f34e") and not is_text("a\ud800") and not is_text("\udcff")


def test_messages_with_a_lone_surrogate_can_be_printed():
    error = DataError("no folder a\ud800/b\udcff")
    assert str(error) == "no folder a\\ud800/b\\udcff" and str(DataError("caf\u00e9 \U0001f34e")) == "caf\u00e9 \U0001f34e"
    str(InvalidGraphError(["\ud800"])).encode()


@pytest.mark.parametrize("name", ["\ud800", "a\udcffb", "a/\ud83c.tsv", "\ud800.safetensors"])
def test_names_with_a_lone_surrogate_meet_errors_of_our_own(name, tmp_path, monkeypatch):
    """Every way from a widget's text into the rooms of data, knowledge and text."""
    monkeypatch.setattr(paths, "_dirs", {"input": tmp_path, "output": tmp_path})
    graph = helpers.named_graph(["mirado", "quelba"])
    reader = KnowledgeReader(())
    ways = [
        lambda: resolve_folder(name),
        lambda: new_folder(name),
        lambda: ImageFolder(tmp_path / name),
        lambda: load_triples(tmp_path / name),
        lambda: load_graph(name),
        lambda: load_chosen_projection(name),
        lambda: write_projection(Projection({}, "", {}), name),
        lambda: reader.respell(name),
        lambda: generate_prompts(f"subject: {name}", "en", 1, 0),
        lambda: generate_prompts("colour: red", name, 1, 0),
        lambda: resolve_model(name),
        lambda: fit_projection((), graph, chosen=Selection(entities=name)),
        lambda: fit_projection((), graph, chosen=Selection(described_by=name)),
        lambda: fit_projection((), graph, chosen=Selection(language=name)),
        lambda: build_graph([(name, "r", "b")]),
        lambda: build_graph([], [("a", name, "b")]),
        lambda: graph.neighbours(name),
        lambda: check_vocabulary([*SPECIALS, name]),
        lambda: apply_template(name, "a"),
        lambda: write_dataset(name, 1, 64, tmp_path / "a"),
        lambda: recaption_folder(tmp_path, tmp_path / "new", Captioning(source=name)),
    ]
    for way in ways:
        with pytest.raises(RapidDrawError) as error:
            way()
        str(error.value).encode()
    assert fingerprint(name) == "" and check_folder(tmp_path / name)[1]
