"""Knowledge enters the tokens of a name and nothing else; without anything to add the very same rows come back."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import InputError, KnowledgeError
from rapiddraw.core.knowledge.graph import build_graph
from rapiddraw.core.knowledge.injection import check_dimensions, check_scale, inject
from rapiddraw.core.knowledge.linking import EntityLink

TABLE = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
MATRIX = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def graph():
    g = build_graph([("a", "r", "b")], [("a", "en", "name"), ("lonely", "en", "lonely")])
    return g.with_embeddings(torch.arange(12.0).reshape(3, 4) + 1)


def rows():
    return [[(2, 1.0), (5, 1.2), (6, 1.2, 7), (3, 1.0), (0, 1.0)]]


def call(links, scale=1.0, given=None):
    return inject(given or rows(), links, graph(), lambda i: TABLE[i], lambda v: MATRIX @ v, scale)


LINK = EntityLink("a", "name", 1, 3)


def test_the_equation_and_nothing_else():
    before = rows()
    after = call([LINK], 0.5, before)
    extra = 0.5 * MATRIX @ graph().vector("a")
    assert torch.allclose(after[0][1][0], TABLE[5] + extra)
    assert torch.allclose(after[0][2][0], TABLE[6] + extra)
    assert [t[1:] for t in after[0]] == [t[1:] for t in rows()[0]]  # weights and word ids kept
    assert [after[0][i][0] for i in (0, 3, 4)] == [2, 3, 0]  # start, end and padding stay integers
    assert before == rows()  # the input is not changed


def test_the_effect_is_linear_in_the_scale():
    one, two = call([LINK], 1.0)[0][1][0], call([LINK], 2.0)[0][1][0]
    assert torch.allclose(two - TABLE[5], 2 * (one - TABLE[5]), atol=1e-5)


@pytest.mark.parametrize(
    ("links", "scale"),
    [([LINK], 0.0), ([LINK], 0), ([], 1.0), ([EntityLink("lonely", "lonely", 1, 3)], 1.0), ([EntityLink("unknown", "x", 1, 3)], 1.0)],
)
def test_nothing_to_add_gives_the_same_object(links, scale):
    given = rows()
    assert call(links, scale, given) is given


def test_two_graphs_add_up():
    once = call([LINK])
    twice = call([LINK], 1.0, once)
    assert torch.allclose(twice[0][1][0] - once[0][1][0], once[0][1][0] - TABLE[5], atol=1e-5)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 11, -11, "1", None, True])
def test_a_bad_scale_is_refused(scale):
    with pytest.raises(InputError, match="kg_scale"):
        check_scale(scale)


def test_vectors_of_another_length_are_refused():
    check_dimensions(graph(), 4)
    with pytest.raises(KnowledgeError, match="4 features"):
        check_dimensions(graph(), 5)
