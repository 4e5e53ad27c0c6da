"""Fitting W to a CLIP: which entities are taken, what is held out, and what the report says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from rapiddraw.core.errors import Cancelled, InputError, KnowledgeError
from rapiddraw.core.knowledge.attach import KnowledgeReader, TokenSpace, linkers_of
from rapiddraw.core.knowledge.fit import Selection, fit_projection
from rapiddraw.core.knowledge.graph import build_graph
from rapiddraw.core.progress import request_cancel
from rapiddraw.core.text.tokenizer import build_vocabulary, make_tokenizer
from rapiddraw.tests.helpers import named_graph

NAMES = [a + b for a in ("ba", "de", "ki", "lo", "mu", "ra", "so", "te") for b in ("lim", "nor", "pex", "quel", "tas")]
TOKENIZER = make_tokenizer(build_vocabulary(["round red striped tall blue dotted fruit"], NAMES, 400))
KG_DIM = 6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def space(key: str, table: torch.Tensor) -> TokenSpace:
    def embed(ids: Sequence[int]) -> torch.Tensor:
        return table[list(ids)]

    return TokenSpace(key, table.shape[1], TOKENIZER, embed)


SPACES = (space("l", normal(400, 16)), space("g", normal(400, 24, seed=1)))


def linear_graph(noise: float = 0.0):
    """Vectors of which the names' embeddings in `l` are a linear function: taken from those embeddings' own leading axes."""
    ids = [TOKENIZER(name, add_special_tokens=False)["input_ids"] for name in NAMES]
    means = torch.stack([SPACES[0].embed(row).mean(0) for row in ids])
    return named_graph(NAMES, torch.cat([means, noise * normal(len(NAMES), 4, seed=2)], 1) if noise else means)


def test_a_w_that_is_there_is_found_and_held_out_names_show_it() -> None:
    fit = fit_projection(SPACES[:1], linear_graph(), strength=0.0)
    (row,) = fit.rows
    assert (row["encoder"], row["width"], row["fitted"], row["held_out"]) == ("l", 16, 32, 8)
    assert row["error"] < 1e-3 and row["ratio"] < 1e-3 and row["cosine"] > 0.999 and row["mean_error"] > 0.5
    assert "does better than the mean name" in fit.table() and fit.projection.provenance["entities"] == 40


def test_vectors_that_say_nothing_are_told_as_such(caplog: pytest.LogCaptureFixture) -> None:
    fit = fit_projection(SPACES, named_graph(NAMES, normal(len(NAMES), KG_DIM, seed=3)), strength=0.0)
    assert {row["encoder"]: row["width"] for row in fit.rows} == {"l": 16, "g": 24}
    assert all(row["ratio"] > 0.9 for row in fit.rows)
    assert "no better than the mean name" in fit.table() and "no better" in caplog.text


def test_the_seed_chooses_and_nothing_else_does() -> None:
    graph = linear_graph(0.5)
    one, again, other = (fit_projection(SPACES, graph, seed=seed) for seed in (1, 1, 2**64 - 1))
    assert torch.equal(one.projection.weights["l"], again.projection.weights["l"]) and one.rows == again.rows
    assert not torch.equal(one.projection.weights["l"], other.projection.weights["l"])


def test_a_limit_samples_and_a_list_chooses() -> None:
    graph = linear_graph()
    assert sum(fit_projection(SPACES, graph, chosen=Selection(limit=10)).rows[0][key] for key in ("fitted", "held_out")) == 10
    listed = Selection("thing:balim, DELIM\nkilim,lolim\n\nmulim,\uff52alim,so\u200blim,telim,banor,")
    chosen = fit_projection(SPACES, graph, holdout=0.5, chosen=listed)
    assert chosen.rows[0]["fitted"] + chosen.rows[0]["held_out"] == 9 and "9 of 9" in chosen.table()


def test_words_that_describe_stand_in_for_names() -> None:
    words = {"shape": ["round", "tall"], "colour": ["red", "blue"], "pattern": ["striped", "dotted"]}
    statements = [
        (name, relation, f"{relation}:{options[(i >> place) % 2]}")
        for i, name in enumerate(NAMES)
        for place, (relation, options) in enumerate(words.items())
    ]
    graph = build_graph(statements, [(name, "en", name) for name in NAMES])
    parts = {entity: normal(KG_DIM, seed=i) for i, entity in enumerate(graph.entities)}
    vectors = torch.stack([sum((parts[t] for h, _, t in statements if h == entity), parts[entity]) for entity in graph.entities])
    for i, name in enumerate(graph.entities):  # a fruit is where its attributes are, and nothing else
        if name in NAMES:
            vectors[i] -= parts[name]
    graph = graph.with_embeddings(vectors)
    fit = fit_projection(SPACES, graph, strength=0.0, chosen=Selection(described_by="shape, colour,pattern"))
    assert fit.rows[0]["ratio"] < 1e-3 and "left out: 6 without a name" in fit.table()
    assert fit_projection(SPACES, graph).rows[0]["ratio"] > 0.8  # the names themselves say nothing
    with pytest.raises(InputError, match="no relation 'size'; it has shape, colour, pattern"):
        fit_projection(SPACES, graph, chosen=Selection(described_by="shape, size"))


def test_too_few_entities_say_what_was_left_out() -> None:
    graph = build_graph(
        [(f"e{i}", "is", "thing") for i in range(12)], [(f"e{i}", "zh", f"\u7ea2{i}") for i in range(12)] + [("x", "en", "x")]
    )
    graph = graph.with_embeddings(normal(len(graph.entities), 4))
    with pytest.raises(KnowledgeError, match="only 0 of 14 entities.*1 without a vector, 13 without a name"):
        fit_projection(SPACES, graph)
    with pytest.raises(KnowledgeError, match="more than 1 tokens"):
        fit_projection(SPACES, linear_graph(), chosen=Selection(max_tokens=1))
    with pytest.raises(KnowledgeError, match="train them first"):
        fit_projection(SPACES, linear_graph().with_embeddings(None))
    with pytest.raises(InputError, match="limit=7"):
        fit_projection(SPACES, linear_graph(), chosen=Selection(limit=7))


@pytest.mark.parametrize(
    "bad",
    [
        {"holdout": 0.0}, {"holdout": 0.9}, {"holdout": math.nan}, {"holdout": "0.2"}, {"seed": -1}, {"seed": 2**64}, {"seed": 1.5},
        {"limit": -1}, {"limit": 10**9}, {"max_tokens": 0}, {"max_tokens": 25}, {"strength": -1.0}, {"strength": math.nan},
        {"entities": "nobody"}, {"entities": "x" * 300_000},
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(bad: dict) -> None:
    with pytest.raises(InputError):
        measures = {key: bad[key] for key in bad if key in ("strength", "holdout", "seed")}
        fit_projection(SPACES, linear_graph(), **measures, chosen=Selection(**{key: bad[key] for key in bad.keys() - measures.keys()}))


def test_token_embeddings_that_are_nan_are_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        fit_projection([space("l", torch.full((400, 8), math.nan))], linear_graph())


def test_it_can_be_cancelled() -> None:
    request_cancel()
    with pytest.raises(Cancelled):
        fit_projection(SPACES, linear_graph())


def test_encoders_that_spell_alike_share_a_linker() -> None:
    linkers = linkers_of(SPACES, linear_graph())
    assert linkers["l"] is linkers["g"]


def test_a_reader_takes_w_from_where_it_should() -> None:
    graph, reader = linear_graph(), KnowledgeReader(SPACES)
    with pytest.raises(KnowledgeError, match=r"g \(width 24\), l \(width 16\) and no projection W.*RapidDrawFitKnowledgeProjection"):
        reader.attached(graph, 1.0)
    one, two = (fit_projection(SPACES, graph, seed=seed).projection for seed in (1, 2))
    carrying = reader.carrying(one)
    assert carrying.attached(graph, 1.0).attachments[0].weights is one.weights
    assert carrying.attached(graph, 1.0, two).attachments[0].weights is two.weights
    again = carrying.attached(graph, 1.0).attached(graph, 0.5, two)
    assert [(one.scale, one.weights) for one in again.attachments] == [(0.5, two.weights)]
    assert reader.projection is None and reader.attachments == ()
