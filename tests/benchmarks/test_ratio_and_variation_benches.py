"""bench buckets and bench image_variation: one row a ratio, one row a kind of prompt, read from the square the judge is surest of."""

from __future__ import annotations

import argparse

import pytest
import torch
from rapiddraw.benchmarks import buckets, image_variation


def options(bench, **changes) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), **changes})


def sure_of_bright(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """A judge that sees class 1, and is the surer the brighter the picture is."""
    bright = pictures.mean((1, 2, 3))
    return {"shape": torch.stack([torch.zeros_like(bright), 1 + bright], 1), "skin": torch.stack([-bright, bright], 1)}


@pytest.mark.parametrize("shape", [(3, 32, 96), (3, 96, 32)])
def test_the_surest_square_is_read(shape):
    dark, light = torch.full((1, *shape), -0.5), torch.full((1, *shape), -0.5)
    index = (..., slice(64, 96), slice(None)) if shape[1] > shape[2] else (..., slice(64, 96))
    light[index] = 1.0
    found = buckets.read(sure_of_bright, torch.cat([dark, light]))
    assert found["shape"].tolist() == [1, 1] and found["skin"].tolist() == [0, 1]


def test_joined_texts_have_one_length():
    encoded = [(torch.ones(1, 4, 2), {"pooled_output": torch.ones(1, 3)}), (torch.zeros(1, 6, 2), {"pooled_output": torch.zeros(1, 3)})]
    ((tokens, details),) = buckets.joined(encoded)
    assert tokens.shape == (2, 4, 2) and details["pooled_output"].shape == (2, 3)
    assert buckets.joined([(torch.ones(1, 4, 2), {})])[0][1] == {}


def test_every_ratio_has_a_row(monkeypatch):
    monkeypatch.setattr(buckets, "STEPS", 1)
    outcome = buckets.run(options(buckets, count=2))
    sizes = [row["width x height"] for row in outcome["rows"]]
    assert len(sizes) == 11 and sizes[5] == "128x128" and sizes[0] == "256x64" and sizes[10] == "64x256"
    assert all(row["AA, renders"] >= 0.5 for row in outcome["rows"]) and len(outcome["checks"]) == 2


def test_every_kind_of_prompt_has_a_row(monkeypatch):
    monkeypatch.setattr(buckets, "STEPS", 1)
    outcome = image_variation.run(options(image_variation, count=2))
    assert [row["prompt"] for row in outcome["rows"]] == list(image_variation.ROWS) and len(outcome["checks"]) == 2
