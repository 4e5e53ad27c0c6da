"""The interface of a CLIP in training: text encoders that gradients go through, evaluated like any other CLIP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..knowledge.attach import KnowledgeReader


@dataclass(frozen=True)
class TextsInTraining:
    """A CLIP whose weights are frozen copies, through which gradients go to what is put on its layers and to the knowledge in its tokens.

    `encode(text, reader)` returns the CONDITIONING of `text` with the graphs of `reader`, under the caller's gradient mode. `network` holds
    the encoders; its layers have the names that ComfyUI gives them (`clip_l.transformer.text_model.encoder.layers.0.mlp.fc1`), on `device`.
    `release()` ends the training.
    """

    network: nn.Module
    device: torch.device
    encode: Callable[[str, KnowledgeReader], Any]
    release: Callable[[], None]
