"""One form for all writings of a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapiddraw.core.language import folded_name, is_text, plain_characters, plain_name
from rapiddraw.core.orchard.entities import entities, triples

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
