"""Attention at another picture size than in training, with a softmax as sharp as in training (Jin et al. 2023, which PanGu-Draw cites in
section 4.1: its texture model is trained at a lower size than it draws).

Softmax over more tokens is flatter: its entropy grows with log N. Scaling the logits of self-attention by sqrt(log N_test / log N_train)
(Jin et al. 2023, eq. 10) keeps the entropy of training. N is counted for each level of the U-Net: a level that halves the latent's sides
twice has a sixteenth of the tokens, in training and in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..errors import InputError

KEY = "attn1_patch"
"""Under `patches` of ComfyUI's `transformer_options`: functions on the input of self-attention's queries, keys and values."""


SHAPE = "original_shape"
"""Under this name ComfyUI's U-Nets put the shape of the latents into `transformer_options`."""


def check_size(width: int, height: int) -> tuple[int, int]:
    """Return (width, height) of the training pictures in pixels. Raises :class:`InputError` for sides outside 16 to 16384."""
    for side in (width, height):
        if isinstance(side, bool) or not isinstance(side, int) or not 16 <= side <= 16384:
            raise InputError(f"trained at {width} x {height} pixels: expected 16 to 16384 a side")
    return width, height


def entropy_factor(tokens: int, latent_area: float, trained_area: float) -> float:
    """Return sqrt(log N_test / log N_train) for a level of `tokens` tokens; the areas are those of the latents, in use and in training.

    The factor is exactly 1 where both areas are equal, and where a level has fewer than two tokens.
    """
    trained = tokens * trained_area / latent_area
    if tokens < 2 or trained < 2 or latent_area == trained_area:
        return 1.0
    return math.sqrt(math.log(tokens) / math.log(trained))


def entropy_patch(width: int, height: int, factor: int, cell: int = 1) -> Callable[..., Any]:
    """Return a self-attention patch for a model trained on pictures of `width` x `height` pixels, whose VAE reduces sides by `factor`.

    In a U-Net the patch scales the input of the query projection (which has no bias in the U-Nets of Stable Diffusion), so that the logits
    are scaled for every kernel. In a transformer that attends to text and picture together (ComfyUI calls the patch with `extra_options`,
    which say where the picture begins) it scales the queries of the picture's tokens alone, each of `cell` x `cell` latent cells. A call
    without the size of its latents is left unchanged.
    """
    trained = (width / factor) * (height / factor)

    def patch(queries: Tensor, keys: Any, values: Any, options: Any = None, extra_options: Any = None, **_: Any) -> Any:
        if extra_options is not None:
            return _joint(queries, extra_options)
        shape = options.get(SHAPE)
        if shape is None:
            return queries, keys, values
        scale = entropy_factor(int(queries.shape[-2]), float(shape[-1] * shape[-2]), trained)
        return (queries if scale == 1.0 else queries * scale), keys, values

    def _joint(queries: Tensor, options: Mapping[str, Any]) -> dict[str, Tensor]:
        shape, place = options.get(SHAPE), options.get("img_slice")
        if shape is None or place is None:
            return {}
        frames = shape[2] if len(shape) == 5 else 1
        tokens = frames * math.ceil(shape[-2] / cell) * math.ceil(shape[-1] / cell)
        scale = entropy_factor(tokens, float(shape[-1] * shape[-2]), trained)
        if scale == 1.0:
            return {}
        scaled = queries.clone()
        scaled[..., place[0] : place[0] + tokens, :] *= scale
        return {"q": scaled}

    return patch
