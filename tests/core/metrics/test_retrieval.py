"""Recall@k by hand."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.metrics.retrieval import first_hits, mean_of, recall_at, retrieval


def test_recall_by_hand():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1]])
    assert recall_at(similarity, 1) == pytest.approx(100 / 3)
    assert recall_at(similarity, 2) == pytest.approx(200 / 3)
    assert recall_at(similarity, 3) == 100.0
    assert first_hits(similarity).tolist() == [1, 0, 0] and 100 * float(first_hits(similarity).mean()) == pytest.approx(100 / 3)


def test_ties_count_against_the_query():
    assert recall_at(torch.ones(4, 4), 1) == 0.0
    assert recall_at(torch.ones(4, 4), 4) == 100.0


def test_perfect_pairs_and_both_ways():
    vectors = torch.eye(12)
    assert set(retrieval(vectors, vectors).values()) == {100.0}
    swapped = retrieval(vectors, vectors.roll(1, 0))
    assert swapped["text_to_image@1"] == swapped["image_to_text@1"] == 0.0


def test_mean_and_bad_shapes():
    assert mean_of([{"a": 1.0}, {"a": 2.0}]) == {"a": 1.5}
    with pytest.raises(InputError, match="shape"):
        recall_at(torch.ones(2, 3), 1)
    with pytest.raises(InputError, match="k=0"):
        recall_at(torch.ones(2, 2), 0)
