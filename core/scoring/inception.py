"""Inception features of pictures and the FID, by the package torch-fidelity and the user's file of its weights."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.pickled import read_pickled
from ..errors import BundleError, InputError
from .extra import import_extra

PACKAGE, USE = "torch-fidelity", "the FID on Inception features"
FILE = "torch-fidelity's weights of Inception (weights-inception-2015-12-05-6726825d.pth of its releases)"
WIDTH = 2048
"""Features of a picture. The covariance of fewer pictures than features is singular, and the FID too large."""
BATCH, MOST_PIXELS = 32, 2**23


class Inception:
    """torch-fidelity's Inception network on `device`."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self.network, self.device = network.to(device), device

    @torch.no_grad()
    def features(self, pictures: Iterable[np.ndarray[Any, Any]]) -> Tensor:
        """Return the features (N, 2048) of pictures (H, W, 3) uint8 of any sizes. The network scales them to 299 pixels itself."""
        rows: list[Tensor] = []
        batch: list[Tensor] = []
        for pixels in pictures:
            picture = torch.from_numpy(pixels).permute(2, 0, 1)
            if batch and (picture.shape != batch[0].shape or len(batch) >= min(BATCH, MOST_PIXELS // picture[0].numel())):
                rows.append(self._run(batch))
                batch = []
            batch.append(picture)
        if batch:
            rows.append(self._run(batch))
        return torch.cat(rows) if rows else torch.empty(0, WIDTH)

    def _run(self, batch: list[Tensor]) -> Tensor:
        features: Tensor = self.network(torch.stack(batch).to(self.device))[0]
        return features.cpu()


def check_inception() -> None:
    """Raise :class:`MissingPackageError` where torch-fidelity cannot be imported."""
    import_extra("torch_fidelity", PACKAGE, USE)


def load_inception(path: Path, device: torch.device) -> Inception:
    """Return torch-fidelity's Inception with the weights in `path`, a `.pth`, which is read without running code.

    Raises :class:`MissingPackageError` without the package and :class:`BundleError` for a file that holds other weights.
    """
    package = import_extra("torch_fidelity.feature_extractor_inceptionv3", PACKAGE, USE)
    plain = io.BytesIO()
    torch.save(read_pickled(path), plain)  # the package's own reading of `path` would run code that a pickle may hold
    plain.seek(0)
    try:
        network = package.FeatureExtractorInceptionV3("inception-v3-compat", [str(WIDTH)], feature_extractor_weights_path=plain)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise BundleError(f"{path.name} does not hold the weights of Inception ({_start(error)}); expected {FILE}") from error
    return Inception(network, device)


def inception_fid(one: Tensor, other: Tensor) -> float:
    """Return the FID of features (N, 2048) and (M, 2048) by torch-fidelity's own formula (Heusel et al. 2017, equation 6).

    Raises :class:`InputError` with fewer than two rows or unequal widths, and :class:`MissingPackageError`.
    """
    if one.dim() != 2 or other.dim() != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < 2:
        raise InputError(f"two feature tables (N, d) with N of at least 2 are expected, got {tuple(one.shape)} and {tuple(other.shape)}")
    package = import_extra("torch_fidelity.metric_fid", PACKAGE, USE)
    statistics = [package.fid_features_to_statistics(features) for features in (one, other)]
    return float(package.fid_statistics_to_metric(*statistics, verbose=False)[package.KEY_METRIC_FID])


def _start(error: Exception) -> str:
    """Return the first two lines of an error: the first key that does not fit stands in the second."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2])[:200]
