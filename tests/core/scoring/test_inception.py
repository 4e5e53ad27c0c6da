"""Inception by torch-fidelity: its file is read without running code, other files are refused, and its formula is the judge's."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rapiddraw.core.errors import BundleError, InputError, MissingPackageError
from rapiddraw.core.scoring.inception import Inception, inception_fid, load_inception
from rapiddraw.core.scoring.judge import frechet_distance

CPU = torch.device("cpu")


class FakeExtractor(torch.nn.Module):
    """torch-fidelity's extractor in small: its constructor's arguments, its strict loading, a tuple of features."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: Any = None) -> None:
        super().__init__()
        assert features_list == ["2048"] and feature_extractor_weights_path is not None, "without a file it would download"
        self.weight = torch.nn.Parameter(torch.empty(8, 3))
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))
        self.batches: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        assert x.dtype == torch.uint8
        self.batches.append(tuple(x.shape))
        return (x.float().mean((2, 3)) / 255 @ self.weight.T,)


def fake_torch_fidelity(patch: pytest.MonkeyPatch) -> None:
    def statistics(features: torch.Tensor) -> torch.Tensor:
        return features

    def metric(one: torch.Tensor, other: torch.Tensor, verbose: bool) -> dict[str, float]:
        return {"frechet_inception_distance": frechet_distance(one, other)}

    key = "frechet_inception_distance"
    fid = SimpleNamespace(KEY_METRIC_FID=key, fid_features_to_statistics=statistics, fid_statistics_to_metric=metric)
    patch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    patch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", SimpleNamespace(FeatureExtractorInceptionV3=FakeExtractor))
    patch.setitem(sys.modules, "torch_fidelity.metric_fid", fid)


def weights(path: Path) -> Path:
    torch.save({"weight": torch.arange(24.0).reshape(8, 3).sin()}, path)
    return path


class Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_features_are_those_of_each_picture_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch_fidelity(monkeypatch)
    network = load_inception(weights(tmp_path / "w.pth"), CPU)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, size=(side, 20, 3), dtype=np.uint8) for side in (16, 16, 24, 16, *[16] * 40)]
    features = network.features(iter(pictures))
    alone = torch.cat([network.features([picture]) for picture in pictures])
    assert features.shape == (44, 8) and torch.allclose(features, alone)
    assert [shape[0] for shape in network.network.batches[:4]] == [2, 1, 32, 9], "pictures of one size run together, 32 at most"


def test_large_pictures_run_alone() -> None:
    seen: list[int] = []

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            seen.append(len(x))
            return (x.float().mean((2, 3)),)

    Inception(Network(), CPU).features(np.zeros((3000, 3000, 3), np.uint8) for _ in range(3))
    assert seen == [1, 1, 1]


def test_no_code_of_a_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch_fidelity(monkeypatch)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    torch.save({"weight": Code(tmp_path / "ran")}, tmp_path / "archive.pth")
    for name in ("bad.pth", "archive.pth"):
        with pytest.raises(BundleError, match=f"{name} is not a checkpoint of plain tensors"):
            load_inception(tmp_path / name, CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("held", [{"conv.weight": torch.ones(2)}, {"weight": torch.ones(2, 2)}, [1, 2], 5])
def test_other_weights_are_refused(held: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch_fidelity(monkeypatch)
    torch.save(held, tmp_path / "other.pth")
    with pytest.raises(BundleError, match=r"other\.pth does not hold the weights of Inception .*weights-inception-2015-12-05"):
        load_inception(tmp_path / "other.pth", CPU)


def test_without_the_package_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(MissingPackageError, match="needs the package torch-fidelity .* python -m pip install torch-fidelity"):
        load_inception(weights(tmp_path / "w.pth"), CPU)


@pytest.mark.parametrize("shapes", [((1, 8), (5, 8)), ((5, 8), (5, 7)), ((5,), (5,))])
def test_features_that_cannot_be_compared_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="two feature tables"):
        inception_fid(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


@pytest.mark.parametrize("counts", [(200, 300), (20, 30)])
def test_torch_fidelitys_formula_gives_the_judges_distance(counts: tuple[int, int]) -> None:
    pytest.importorskip("torch_fidelity")
    random = torch.Generator().manual_seed(0)
    one, other = (torch.randn(count, 48, generator=random) * (1 + count / 500) for count in counts)
    assert inception_fid(one, other) == pytest.approx(frechet_distance(one, other), rel=1e-3)
    assert inception_fid(one, one) == pytest.approx(0, abs=1e-3)
