"""Prompt weights and rows follow ComfyUI's rules, odd ends included."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.errors import InputError
from rapiddraw.core.host.embedded.prompt import parse_weights, token_rows

START, END, PAD, LENGTH = 1000, 1001, 0, 32


def rows(segments: list[tuple[str, float]], length: int = LENGTH):
    """A segment's text is the number of tokens it has."""
    return token_rows(segments, lambda text: list(range(1, int(text) + 1)), START, END, PAD, length)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red fruit", [("a red fruit", 1.0)]),
        ("a (red:1.3) fruit", [("a ", 1.0), ("red", 1.3), (" fruit", 1.0)]),
        ("(red)", [("red", 1.1)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(a (b:0.5) c)", [("a ", 1.1), ("b", 0.5), (" c", 1.1)]),
        (r"a \(b:1.3\) c", [("a (b:1.3) c", 1.0)]),
        (r"(a \(b\):1.2)", [("a (b)", 1.2)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:b:1.5)", [("a:b", 1.5)]),
        ("(:1.5)", [(":1.5", 1.1)]),
        ("(a:nan)", [("a:nan", 1.1)]),
        ("(a:-0.5)", [("a", -0.5)]),
        ("(a", [("(a", 1.0)]),
        ("a) b (c)", [("a) b (c)", 1.0)]),
        ("()", []),
        ("", []),
    ],
)
def test_weights(text: str, expected: list[tuple[str, float]]) -> None:
    found = parse_weights(text)
    assert [part for part, _ in found] == [part for part, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


def test_hostile_prompts_are_refused_quickly() -> None:
    with pytest.raises(InputError, match="nested"):
        parse_weights("(" * 2000 + "a" + ")" * 2000)
    with pytest.raises(InputError, match="characters"):
        parse_weights("a" * 100_001)


def test_an_empty_prompt_is_one_row_of_start_end_padding() -> None:
    assert rows([]) == [[(START, 1.0), (END, 1.0), *[(PAD, 1.0)] * 30]]


def test_thirty_tokens_fill_a_row_and_one_more_starts_another() -> None:
    full = rows([("30", 1.0)])
    assert len(full) == 1 and full[0][-1] == (END, 1.0)
    more = rows([("31", 1.0)])
    assert len(more) == 2 and more[0][-1] == (END, 1.0) and more[1][1] == (31, 1.0)


def test_a_short_segment_moves_to_the_next_row_whole() -> None:
    first, second = rows([("28", 1.0), ("5", 1.2)])
    assert first[28:] == [(28, 1.0), (END, 1.0), (PAD, 1.0), (PAD, 1.0)]
    assert second[:7] == [(START, 1.0), *[(i, 1.2) for i in range(1, 6)], (END, 1.0)]


def test_a_long_segment_is_cut_where_the_row_ends() -> None:
    first, second = rows([("28", 1.0), ("9", 1.2)])
    assert first[29:] == [(1, 1.2), (2, 1.2), (END, 1.0)]
    assert second[1] == (3, 1.2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 80).map(str), st.sampled_from([0.5, 1.0, 1.3])), max_size=8), st.sampled_from([4, 12, 32, 77]))
def test_no_token_is_lost_and_every_row_is_whole(segments: list[tuple[str, float]], length: int) -> None:
    made = rows(segments, length)
    assert all(len(row) == length and row[0] == (START, 1.0) and (END, 1.0) in row for row in made)
    kept = [token for row in made for token in row if token[0] not in (START, END, PAD)]
    assert kept == [(i, weight) for text, weight in segments for i in range(1, int(text) + 1)]
