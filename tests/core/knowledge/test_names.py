"""A name links however it is written in the prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rapiddraw.core.knowledge.attach import KnowledgeReader, TokenSpace
from rapiddraw.core.knowledge.graph import build_graph
from rapiddraw.core.knowledge.names import NameFinder
from rapiddraw.core.text.protect import name_spans
from rapiddraw.core.text.tokenizer import build_vocabulary, make_tokenizer

ZH = "\u7c73\u62c9\u6735"
GRAPH = build_graph(
    [(entity, "r", "x") for entity in ("f:mirado", "f:ohara", "f:fig", "f:jean", "f:zh")],
    [("f:mirado", "en", "golden mirado"), ("f:ohara", "en", "o\u2019hara"), ("f:fig", "en", "red\u2013\ufb01g"), ("f:jean", "zh", ZH)],
)
WRITINGS = {
    "f:mirado": [
        "golden mirado",
        "Golden  Mirado",
        "golden\u00a0mirado",
        "\uff47olden\u3000\uff4dirado",
        "golden mi\u200brado",
        "gol\u00adden mirado",
    ],
    "f:ohara": ["o'hara", "O\u2019Hara", "o\u02bchara", "o\uff07hara"],
    "f:fig": ["red-fig", "red\u2011\ufb01g", "red\u2212fig", "\uff52\uff45\uff44\uff0d\uff46\uff49\uff47"],
    "f:jean": [ZH, f"{ZH[0]}\u200b{ZH[1:]}"],
}
CASES = [(entity, written) for entity, writings in WRITINGS.items() for written in writings]


@pytest.fixture(scope="module")
def reader():
    tokenizer = make_tokenizer(build_vocabulary(["a photo of golden red and sand", ZH], ["mirado", "hara", "fig"]))
    space = TokenSpace("rapiddraw", 4, tokenizer, lambda ids: torch.zeros(len(ids), 4), torch.zeros(4, 4))
    return KnowledgeReader((space,)).attached(GRAPH.with_embeddings(torch.ones(len(GRAPH.entities), 4)), 1.0)


@pytest.mark.parametrize(("entity", "written"), CASES)
def test_a_name_links_however_it_is_written(reader, entity, written):
    text = f"a photo of {written}, on sand"
    ids = reader.spaces[0].tokenizer(reader.respell(text), add_special_tokens=False)["input_ids"]
    assert [link.entity for link in reader.inform({"rapiddraw": [[(token, 1.0) for token in ids]]})[1]] == [entity]
    assert [text[span.start : span.end] for span in name_spans(text, GRAPH)] == [written]


def test_only_names_are_respelled():
    finder = NameFinder(GRAPH)
    text = "\u201cit\u2019s\u201d \u2013 a \uff46ine o\u2019hara\u2019s golden\u00a0mirado \u2026"
    assert finder.respell(text) == "\u201cit\u2019s\u201d \u2013 a \uff46ine o'hara\u2019s golden mirado \u2026"
    assert finder.respell("xo\u2019hara o\u2019harax") == "xo\u2019hara o\u2019harax"
    for plain in ("(golden mirado:1.2), o'hara", f"{ZH} and a caf\u00e9", ""):
        assert finder.respell(plain) is plain


@given(st.text(max_size=40))
def test_any_text_without_names_stays(text):
    finder = NameFinder(GRAPH)
    assert finder.find(text) or finder.respell(text) == text


@given(st.sampled_from(CASES), st.text("a \u200b\u2019\ufb01(\u3000", max_size=6), st.text("., \u2019\u3000)", max_size=6))
def test_respelling_is_stable_and_finds_the_same(case, before, after):
    finder = NameFinder(GRAPH)
    text = f"{before} {case[1]}{after}"
    again = finder.respell(text)
    assert [one.entity for one in finder.find(again)] == [one.entity for one in finder.find(text)]
    assert finder.respell(again) == again
