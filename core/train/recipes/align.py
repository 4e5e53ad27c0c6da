"""A fit of a trained U-Net to other text encoders by least squares: the start for a training of its attention.

Cross-attention makes keys and values of tokens by matrices without a bias, K = W_k e. Let new encoders give features f at each token for
which the old encoder gave e. The matrix M that takes f to e with the least squared error turns W_k into W_k M, and W_v likewise. Both sides
must have their tokens at the same places, as vocabularies cut from one vocabulary do: a word that one of them does not know is one [UNK]
there.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ...bundles.format import Bundle
from ...errors import InputError

RIDGE = 1e-3
"""Ridge as a share of a feature's mean square. It keeps the entries of M small for features that are rare or that occur twice."""


def fit_features(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, float]:
    """Return (M (old, new), the share of the old features' square that M explains) from batches of (new (B, T, n), old (B, T, o)) features.

    Minimises sum |old - M new|^2 + ridge |M|^2 over all tokens. Raises :class:`InputError` where there is no batch.
    """
    gram: Tensor | None = None
    cross = total = torch.zeros(())
    for new, old in pairs:
        x, y = new.flatten(0, 1).double(), old.flatten(0, 1).double()
        if len(x) != len(y):
            raise InputError(f"{tuple(new.shape)} and {tuple(old.shape)} features: expected as many tokens of both encoders")
        gram = x.T @ x if gram is None else gram + x.T @ x
        cross, total = cross + y.T @ x, total + y.pow(2).sum()
    if gram is None:
        raise InputError("there are no captions to fit the new features on: expected a folder with captions")
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    fitted = torch.linalg.solve(gram + ridge, cross.T).T
    left = total - 2 * (fitted * cross).sum() + (fitted @ gram * fitted).sum()
    return fitted.float(), float(1 - left / total)


def with_features(bundle: Bundle, fitted: Tensor) -> Bundle:
    """Return `bundle` with cross-attention that reads features (new) through `fitted` (old, new). Raises :class:`InputError` where the
    new features are not as many as the old ones, because the bundle's config could not stay as it is."""
    width = bundle.info.config.get("cross_attention_dim")
    if fitted.shape != (width, width):
        raise InputError(f"the new encoders give {fitted.shape[1]} features, the U-Net attends to {width}: expected as many")
    read = {key: tensor for key, tensor in bundle.tensors.items() if key.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))}
    return Bundle(bundle.info, {**bundle.tensors, **{key: (tensor.float() @ fitted).to(tensor.dtype) for key, tensor in read.items()}})
