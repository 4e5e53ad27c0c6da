"""Attention at another picture size than the model was trained at: the softmax made as sharp as it was (Jin et al. 2023; PanGu-Draw's
texture model is trained at half the size it draws at).

Softmax over more tokens is flatter: its entropy grows with log N. Scaling the logits of self-attention by sqrt(log N_test / log N_train)
(Jin et al. 2023, eq. 10) keeps it where training had it. N is counted level by level: a level that halves the latent's sides twice has a
sixteenth of its tokens, in training as in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..errors import InputError

KEY = "attn1_patch"
"""Under `patches` of ComfyUI's `transformer_options`: functions on the input of self-attention's queries, keys and values."""


def check_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the training pictures in pixels. Raises :class:`InputError` for what no model was trained on."""
    for side in (width, height):
        if isinstance(side, bool) or not isinstance(side, int) or not 16 <= side <= 16384:
            raise InputError(f"trained at {width} x {height} pixels: expected 16 to 16384 a side")
    return width, height


def entropy_factor(tokens: int, latent_area: float, trained_area: float) -> float:
    """sqrt(log N_test / log N_train) for a level of `tokens` tokens; areas are those of the latents, in use and in training.

    Exactly 1 where both are equal, and where a level has too few tokens for a logarithm to mean anything.
    """
    trained = tokens * trained_area / latent_area
    if tokens < 2 or trained < 2 or latent_area == trained_area:
        return 1.0
    return math.sqrt(math.log(tokens) / math.log(trained))


def entropy_patch(width: int, height: int, factor: int) -> Callable[..., tuple[Tensor, Any, Any]]:
    """A self-attention patch for a model trained on pictures of `width` x `height` pixels, whose VAE reduces sides by `factor`.

    It scales what queries are made of (the U-Nets of Stable Diffusion make them without a bias), so the logits are scaled whatever kernel
    computes them. A call that does not say how large its latents are is left as it is.
    """
    trained = (width / factor) * (height / factor)

    def patch(queries: Tensor, keys: Any, values: Any, options: Mapping[str, Any]) -> tuple[Tensor, Any, Any]:
        shape = options.get("original_shape")
        if shape is None:
            return queries, keys, values
        scale = entropy_factor(int(queries.shape[-2]), float(shape[-1] * shape[-2]), trained)
        return (queries if scale == 1.0 else queries * scale), keys, values

    return patch
