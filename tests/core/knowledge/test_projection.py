"""The ridge regression finds a W that is there, says how good one is, and the file that holds it is read with suspicion."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rapiddraw.core.bundles.format import Bundle, BundleInfo, save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError, InputError, KnowledgeError
from rapiddraw.core.knowledge.projection import MAX_RIDGE, Projection, load_projection, measure, ridge, save_projection
from rapiddraw.tests.helpers import named_graph, tiny_graph


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ridge_recovers_a_known_w() -> None:
    true, x = normal(24, 8), normal(60, 8, seed=1)
    assert torch.allclose(ridge(x, x @ true.T, 0.0), true, atol=1e-5)
    noisy = x @ true.T + 0.1 * normal(60, 24, seed=2)
    assert (ridge(x, noisy, 0.01) - true).norm() / true.norm() < 0.1


def test_ridge_is_the_closed_form_and_shrinks() -> None:
    x, y = normal(30, 5), normal(30, 7, seed=1)
    strength = 0.3 * float(torch.linalg.eigvalsh(x.T @ x).mean())
    expected = torch.linalg.solve(x.T @ x + strength * torch.eye(5), x.T @ y).T
    assert torch.allclose(ridge(x, y, 0.3), expected, atol=1e-5)
    sizes = [float(ridge(x, y, value).norm()) for value in (0.0, 0.1, 1.0, 10.0, MAX_RIDGE)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 1e-4


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_the_strength_means_the_same_whatever_the_vectors_length(factor: float) -> None:
    x, y = normal(30, 5), normal(30, 7, seed=1)
    assert torch.allclose(factor * ridge(factor * x, y, 0.3), ridge(x, y, 0.3), rtol=1e-3, atol=1e-6)


def test_fewer_entities_than_features_give_the_smallest_w() -> None:
    x, y = normal(4, 16), normal(4, 6, seed=1)
    weight = ridge(x, y, 0.0)
    assert torch.allclose(x @ weight.T, y, atol=1e-4)
    assert torch.allclose(weight, (torch.linalg.pinv(x.double()) @ y.double()).T.float(), atol=1e-4)
    assert bool((ridge(torch.zeros(4, 16), y, 0.0) == 0).all())  # vectors that say nothing add nothing


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf, 2 * MAX_RIDGE, True, "1", None])
def test_a_bad_strength_is_refused(strength: object) -> None:
    with pytest.raises(InputError, match="ridge="):
        ridge(normal(4, 2), normal(4, 3), strength)  # type: ignore[arg-type]


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        ridge(torch.full((4, 2), math.nan), normal(4, 3), 1.0)
    with pytest.raises(InputError, match="NaN or infinite"):
        ridge(normal(4, 2), torch.full((4, 3), math.inf), 1.0)
    for x, y in ((normal(4, 2), normal(5, 3)), (normal(0, 2), normal(0, 3)), (normal(4), normal(4)), (normal(4, 0), normal(4, 3))):
        with pytest.raises(InputError, match="must be"):
            ridge(x, y, 1.0)


def test_the_measure_is_the_mean_name() -> None:
    x, true = normal(20, 4), normal(9, 4, seed=1)
    y = x @ true.T + 3.0
    told = measure(true, x, y - 3.0, (y - 3.0).mean(0))
    assert told["error"] < 1e-6 and told["ratio"] < 1e-6 and told["cosine"] == pytest.approx(1.0)
    constant = measure(torch.zeros(9, 4), x, y, torch.zeros(9))
    assert constant["ratio"] == pytest.approx(1.0) and constant["error"] == pytest.approx(1.0)
    assert measure(true, x, torch.ones(20, 9), torch.ones(9))["ratio"] == math.inf


def projection(graph, **weights: torch.Tensor) -> Projection:
    return Projection(weights or {"l": normal(6, graph.dim), "g": normal(10, graph.dim, seed=1)}, graph.digest, {"recipe": "test"})


def test_it_is_saved_and_read(tmp_path: Path) -> None:
    graph = tiny_graph()
    path = save_projection(tmp_path / "mine.safetensors", projection(graph))
    again = load_projection(path)
    assert again.name == "mine.safetensors" and again.provenance == {"recipe": "test"}
    assert all(torch.equal(again.weights[key], weight) for key, weight in projection(graph).weights.items())
    again.check({"g": 10, "l": 6}, graph)
    save_projection(path, replace(again, graph="another"))  # one of the same kind may be replaced
    assert load_projection(path).graph == "another"


def test_nothing_else_is_ever_replaced(tmp_path: Path) -> None:
    graph = tiny_graph()
    for name, content in (("kg", None), ("notes", b"hello")):
        path = tmp_path / f"{name}.safetensors"
        if content is None:
            save_bundle(path, {"x": torch.zeros(1)}, BundleInfo("kg"))
        else:
            path.write_bytes(content)
        before = path.read_bytes()
        with pytest.raises(BundleError, match="exists and is no projection"):
            save_projection(path, projection(graph))
        assert path.read_bytes() == before


def test_what_does_not_fit_is_refused_by_name() -> None:
    graph = tiny_graph()
    mine = replace(projection(graph), name="mine.safetensors")
    with pytest.raises(KnowledgeError, match=r"mine.safetensors was fitted for a CLIP with g \(width 10\), l \(width 6\), this one has l"):
        mine.check({"l": 6}, graph)
    with pytest.raises(KnowledgeError, match=r"l \(width 7\)"):
        mine.check({"l": 7, "g": 10}, graph)
    with pytest.raises(KnowledgeError, match="mine.safetensors was fitted to the vectors of another knowledge graph"):
        mine.check({"l": 6, "g": 10}, tiny_graph(seed=9))


def test_the_digest_is_of_the_vectors() -> None:
    assert tiny_graph().digest == tiny_graph().digest != tiny_graph(seed=4).digest
    assert tiny_graph().with_embeddings(None).digest == ""
    assert named_graph(["one", "two"], torch.zeros(2, 4)).digest != named_graph(["one", "two"], torch.zeros(2, 8)).digest


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "must hold"), ({"widths": {}}, "must hold"), ({"widths": [6]}, "must hold"), ({"kg_dim": "8"}, "must hold"),
        ({"graph": 3}, "must hold"), ({"widths": {"l": 6}}, "names the encoders"), ({"widths": {"l": 6, "g": 11}}, "should have shape"),
        ({"widths": {"l": 6, "g": "10"}}, "should have shape"), ({"kg_dim": 9}, "should have shape"),
        ({"widths": {str(i): 6 for i in range(99)}}, "must hold"),
    ],
)  # fmt: skip
def test_a_lying_file_is_refused(tmp_path: Path, config: dict, says: str) -> None:
    graph = tiny_graph()
    bundle = load_bundle(save_projection(tmp_path / "p.safetensors", projection(graph)))
    whole = {**bundle.info.config, **config} if config else {}
    with pytest.raises(BundleError, match=f"p.safetensors.*{says}"):
        load_projection(Bundle(replace(bundle.info, config=whole), bundle.tensors))


def test_a_file_of_another_kind_or_with_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="kind 'kg'"):
        load_projection(save_bundle(tmp_path / "kg.safetensors", {"x": torch.zeros(1)}, BundleInfo("kg")))
    with pytest.raises(BundleError, match="NaN or infinite"):
        save_projection(tmp_path / "nan.safetensors", projection(tiny_graph(), l=torch.full((6, 8), math.nan)))
