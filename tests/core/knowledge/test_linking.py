"""Names are found on tokens: longest first, whole words in Latin, characters in Chinese, cut where a row ends."""

from __future__ import annotations

import logging

import pytest
from rapiddraw.core.knowledge.graph import build_graph
from rapiddraw.core.knowledge.linking import EntityLink, Linker, Spelling, byte_pair_linker, describe, wordpiece_linker
from rapiddraw.core.text.tokenizer import build_vocabulary, make_tokenizer

A, B = "\u7c73\u62c9\u6735", "\u62c9\u6735\u5df4\u6d1b"  # overlap in two characters
DUSK = "\u9ec4\u660f\u6c99\u5730\u4e0a\u7684"
NAMES = {
    "f:mirado": {"en": ["mirado", "mirados"], "zh": [A]},
    "f:golden": {"en": ["golden mirado"], "zh": [B]},
    "f:quel": {"en": ["quel"]},
    "f:short": {"en": ["ab"], "zh": ["\u4e0a"]},
}


@pytest.fixture(scope="module")
def graph():
    aliases = [(e, lang, n) for e, by in NAMES.items() for lang, names in by.items() for n in names]
    return build_graph([(e, "r", "x") for e in NAMES], aliases)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(build_vocabulary(["a photo of golden and sand ab", DUSK + A + B], ["mirado", "quelba"]))


@pytest.fixture(scope="module")
def linker(graph, tokenizer):
    return wordpiece_linker(graph, tokenizer)


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def found(linker, tokenizer, text):
    return [(m.entity, m.alias) for m in linker.find(ids(tokenizer, text))]


def rows_of(tokenizer, text, length=32, weight=1.0):
    content = ids(tokenizer, text)
    rows = []
    for i in range(0, max(1, len(content)), length - 2):
        part = [2, *content[i : i + length - 2], 3]
        rows.append([(t, weight) for t in part + [0] * (length - len(part))])
    return rows


def test_both_languages_lead_to_the_same_entity(linker, tokenizer):
    assert found(linker, tokenizer, "a photo of a Mirado, on sand") == [("f:mirado", "mirado")]
    assert found(linker, tokenizer, DUSK + A) == [("f:mirado", A)]


def test_the_longest_name_wins_then_the_leftmost(linker, tokenizer):
    assert found(linker, tokenizer, "a golden mirado") == [("f:golden", "golden mirado")]
    overlap = A[:1] + B  # A's first two thirds run into B, which is longer
    assert found(linker, tokenizer, overlap) == [("f:golden", B)]
    same = build_graph([("f:1", "r", "x"), ("f:2", "r", "x")], [("f:1", "zh", A), ("f:2", "zh", A[1:] + "\u5df4")])
    assert found(wordpiece_linker(same, tokenizer), tokenizer, A + "\u5df4") == [("f:1", A)]


def test_latin_names_match_whole_words_only(linker, tokenizer):
    assert found(linker, tokenizer, "miradora") == []
    assert found(linker, tokenizer, "quelba") == []
    assert found(linker, tokenizer, "xmirado") == []
    assert found(linker, tokenizer, "two mirados.") == [("f:mirado", "mirados")]
    assert found(linker, tokenizer, "(mirado)") == [("f:mirado", "mirado")]


def test_names_too_short_or_that_cannot_be_spelled_never_match(linker, tokenizer, graph):
    assert found(linker, tokenizer, "ab \u4e0a") == []
    unknown = build_graph([("f:x", "r", "y")], [("f:x", "zh", "\u9f98\u9f99")])
    assert found(wordpiece_linker(unknown, tokenizer), tokenizer, "\u9749\u9750") == []  # all unknown characters share one id


def test_at_most_ten_entities(linker, tokenizer):
    assert len(found(linker, tokenizer, "mirado and " * 15)) == 10


def test_links_say_row_and_tokens_and_skip_special_tokens(linker, tokenizer):
    row = rows_of(tokenizer, "a photo of a mirado")
    tokens = tokenizer.convert_ids_to_tokens([t[0] for t in row[0]])
    (link,) = linker.link(row)
    assert (link.row, link.cut) == (0, False)
    assert "".join(tokens[link.start : link.end]).replace("##", "") == "mirado"
    assert linker.link(rows_of(tokenizer, "", 32)) == []


def test_weights_change_nothing_and_a_torn_name_does_not_match(linker, tokenizer):
    assert linker.link(rows_of(tokenizer, "a mirado", weight=1.3)) == linker.link(rows_of(tokenizer, "a mirado"))
    torn = [[(2, 1.0), *((t, 1.2) for t in ids(tokenizer, "mira")), *((t, 1.0) for t in ids(tokenizer, "do")), (3, 1.0)]]
    assert linker.link(torn) == []


def test_a_name_over_the_end_of_a_row_is_linked_in_both_and_flagged(linker, tokenizer):
    name = ids(tokenizer, "mirado")
    assert len(name) >= 2
    text = "sand " * (30 - len(name) + 1) + "mirado"
    links = linker.link(rows_of(tokenizer, text))
    assert [(link.row, link.cut) for link in links] == [(0, True), (1, True)]
    assert links[0].end == 31  # the end token keeps its place
    assert links[1].start == 1
    assert sum(link.end - link.start for link in links) == len(name)


def test_truncation_keeps_the_part_that_is_left(linker, tokenizer):
    name = ids(tokenizer, "mirado")
    content = ids(tokenizer, "sand " * (30 - len(name) + 1) + "mirado")
    (link,) = linker.link_truncated(content, 32)
    assert link.cut
    assert (link.start, link.end) == (32 - len(name), 31)
    assert linker.link_truncated(ids(tokenizer, "sand " * 30 + "mirado"), 32) == []


def test_embeddings_in_a_row_never_match(linker, tokenizer):
    import torch

    row = [(2, 1.0), *((t, 1.0) for t in ids(tokenizer, "mirado")), (3, 1.0)]
    row[1] = (torch.zeros(4), 1.0)
    assert linker.link([row]) == []


def test_byte_pair_tokens_end_words_themselves(graph):
    tokens = {1: "mira", 2: "do</w>", 3: "do", 4: "s</w>", 5: "x", 6: "a</w>", 7: A, 8: A + "</w>", 9: "mira</w>"}
    spelled = {"mirado": [1, 2], "mirados": [1, 3, 4], A: [8]}
    linker = byte_pair_linker(graph, lambda name: spelled.get(name, []), tokens, special=(0,))
    assert [m.entity for m in linker.find([6, 1, 2, 6])] == ["f:mirado"]
    assert [m.alias for m in linker.find([6, 1, 3, 4])] == ["mirados"]
    assert linker.find([5, 1, 2]) == []  # "xmirado"
    assert linker.find([1, 3, 5]) == []  # "miradox"
    assert [m.alias for m in linker.find([5, 7, 5])] == [A]
    assert linker.find([9, 2]) == []  # "mira do", two words


def test_padding_is_whatever_follows_the_end_of_a_text(graph):
    tokens = {1: "mira", 2: "do</w>", 8: "!</w>"}
    linker = byte_pair_linker(graph, lambda name: {"mirado": [1, 2]}.get(name, []), tokens, special=(0, 3), unknown=(3,), end=3)
    rows = [[(0, 1.0), (8, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (8, 1.0), (1, 1.0), (2, 1.0)]]
    assert [(link.start, link.end) for link in linker.link(rows)] == [(2, 4)]
    over = [[(0, 1.0), (8, 1.0), (1, 1.0), (3, 1.0), (8, 1.0)], [(0, 1.0), (2, 1.0), (3, 1.0), (8, 1.0)]]
    assert [(link.row, link.start, link.cut) for link in linker.link(over)] == [(0, 2, True), (1, 1, True)]


def test_a_name_with_a_part_unknown_to_the_tokenizer_is_not_spelled(graph):
    linker = byte_pair_linker(graph, lambda name: [1, 3], {1: "mira"}, special=(0, 3), unknown=(3,), end=3)
    assert linker.spell("mirado") is None and linker.spell("x") is None


def test_a_name_of_two_entities_is_reported_once_and_the_first_wins(tokenizer, caplog):
    graph = build_graph([("f:1", "r", "x"), ("f:2", "r", "x")], [("f:1", "en", "mirado"), ("f:2", "en", "mirado")])
    with caplog.at_level(logging.WARNING, "rapiddraw"):
        linker = wordpiece_linker(graph, tokenizer)
    assert "f:1" in caplog.text
    assert found(linker, tokenizer, "mirado") == [("f:1", "mirado")]


def test_describe_is_for_people():
    assert "no entity" in describe([])
    text = describe([EntityLink("f:mirado", "mirado", 4, 7, 0, True)])
    assert "mirado -> f:mirado" in text
    assert "cut" in text


def test_an_empty_graph_links_nothing():
    linker = Linker(build_graph([("a", "r", "b")]), Spelling(lambda name: [1], lambda left, right: False))
    assert linker.find([1, 2, 3]) == []
