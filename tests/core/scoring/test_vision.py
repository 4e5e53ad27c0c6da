"""Heads that score looks, and a user's networks that read pictures and texts."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.errors import BundleError
from rapiddraw.core.scoring.vision import COLOURS, Vision, load_head
from rapiddraw.core.text.picture_reader import PictureReader
from safetensors.torch import save_file
from torch.nn import Dropout, Linear, Sequential, functional


def laion(width=8):
    """The layers of LAION's MLP, narrow: dropouts between them at 1, 3 and 5."""
    torch.manual_seed(0)
    sides = {0: (width, 6), 2: (6, 5), 4: (5, 4), 6: (4, 3), 7: (3, 1)}
    return Sequential(*(Linear(*sides[i]) if i in sides else Dropout() for i in range(8))).eval()


def test_a_linear_head_and_laions_layers_score_unit_vectors(tmp_path):
    embeddings = torch.randn(5, 8)
    unit = functional.normalize(embeddings, dim=-1)
    network, linear = laion(), Linear(8, 1)
    named = {f"layers.{key}": one for key, one in network.state_dict().items()}
    for path, state, expected in ((tmp_path / "a.pth", named, network), (tmp_path / "b.pt", linear.state_dict(), linear)):
        torch.save(state, path)
        head = load_head(path)
        assert head.width == 8 and torch.allclose(head(embeddings), expected(unit)[:, 0], atol=1e-6)
        assert torch.allclose(head(embeddings * 3), head(embeddings), atol=1e-5)
    save_file(named, tmp_path / "c.safetensors")
    assert torch.equal(load_head(tmp_path / "c.safetensors")(embeddings), load_head(tmp_path / "a.pth")(embeddings))


def state(**changed):
    return {"0.weight": torch.ones(4, 8), "0.bias": torch.ones(4), "2.weight": torch.ones(1, 4), "2.bias": torch.ones(1)} | changed


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (state(**{"2.weight": torch.ones(2, 4), "2.bias": torch.ones(2)}), "no aesthetic head"),
        (state(**{"2.weight": torch.ones(1, 5)}), "no aesthetic head"),
        (state(**{"0.bias": torch.ones(3)}), "no aesthetic head"),
        (state(extra=torch.ones(1)), "no aesthetic head"),
        ({"0.weight": torch.ones(1, 8), "3.bias": torch.ones(1)}, "no aesthetic head"),
        (
            {"0.weight": torch.ones(4, 8), "0.bias": torch.ones(4), "3.weight": torch.ones(1, 4), "3.bias": torch.ones(1)},
            "other layers between",
        ),
        (state(**{"2.bias": torch.tensor([float("nan")])}), "NaN"),
        ({}, "no state dict"),
        ({"x": 1}, "no state dict"),
    ],
)
def test_what_is_no_head_is_refused_by_name(tmp_path, made, words):
    torch.save(made, tmp_path / "aesthetic.pth")
    with pytest.raises(BundleError, match=rf"aesthetic\.pth.*{words}"):
        load_head(tmp_path / "aesthetic.pth")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"weight": Evil()}, tmp_path / "aesthetic.pth")
    with pytest.raises(BundleError, match="is refused"):
        load_head(tmp_path / "aesthetic.pth")


def test_encoders_that_were_trained_together_name_plain_colours():
    reader = PictureReader(lambda image: image.mean((1, 2)) * 2 - 0.999, 3, {})

    def texts(lines):
        return torch.tensor([next(value for name, value in COLOURS.items() if f" {name} " in line) for line in lines]) * 2 - 0.999

    assert Vision(reader, texts).colours_named() == len(COLOURS)
    assert Vision(reader, lambda lines: -texts(lines)).colours_named() < 2
    embedding = Vision(reader).embedding(torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 8, 8))
    assert (
        float(embedding.norm()) == pytest.approx(1) and Vision(reader, texts).similarity(["a red thing", "a blue thing"], embedding) > 0.99
    )
