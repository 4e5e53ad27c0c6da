"""Text encoders of the embedded host as networks: in training, and with a LoRA in their weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...knowledge.attach import KnowledgeReader
from ...lowrank.kronecker import add_deltas
from ...lowrank.lora_file import TEXT_PREFIX
from ..denoiser import frozen_dtype, make_trainable
from ..texts import TextsInTraining
from .clip import ENCODER, Clip
from .sd_clip import SdClip

_KOHYA = {"l": ("lora_te_", "lora_te1_"), "g": ("lora_te2_",)}
"""Beginnings of the names that other trainers give the layers of an encoder."""


def in_training(clip: Clip | SdClip) -> TextsInTraining:
    """See :meth:`TrainingTopic.texts`."""
    copies = {key: _copied(network) for key, network in _networks(clip).items()}
    informed, device = _with_networks(clip, copies), _device(clip)
    network = _together(copies)
    release = make_trainable(network, device, frozen_dtype(device), trained=False)

    def encode(text: str, reader: KnowledgeReader) -> Any:
        one: Any = informed.with_reader(reader)
        cond, pooled = one.states(one.tokenize(text))
        return [[cond, {"pooled_output": pooled}]]

    return TextsInTraining(network.eval(), device, encode, release)


def text_layers(clip: Clip | SdClip) -> dict[str, tuple[str, str]]:
    """Return (encoder, layer) of each linear layer by the keys that LoRA files may have for it."""
    found = {}
    for encoder, network in _networks(clip).items():
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear):
                found[f"{TEXT_PREFIX}clip_{encoder}.transformer.{name}"] = (encoder, name)
                found |= {f"{start}{name.replace('.', '_')}": (encoder, name) for start in _KOHYA.get(encoder, ())}
    return found


def text_shapes(clip: Clip | SdClip) -> dict[tuple[str, str], torch.Size]:
    """Return the shape of each linear layer's weight by (encoder, layer)."""
    named: dict[str, Any] = {key: dict(network.named_modules()) for key, network in _networks(clip).items()}
    return {place: named[place[0]][place[1]].weight.shape for place in text_layers(clip).values()}


def add_to_texts(clip: Clip | SdClip, deltas: Mapping[tuple[str, str], torch.Tensor], strength: float) -> Clip | SdClip:
    """Return a clone of CLIP to whose weights `strength` times each delta is added, by (encoder, layer)."""
    copies = {}
    for encoder, network in _networks(clip).items():
        own = {layer: delta for (key, layer), delta in deltas.items() if key == encoder}
        copies[encoder] = _copied(network) if own else network
        add_deltas(copies[encoder], own, strength)
    return _with_networks(clip, copies)


def _networks(clip: Clip | SdClip) -> dict[str, Any]:
    return {key: one.network for key, one in clip.encoders.items()} if isinstance(clip, SdClip) else {ENCODER: clip.encoder}


def _copied(network: Any) -> Any:
    tokenizer = getattr(network, "tokenizer", None)  # never changed, and slow to copy
    return copy.deepcopy(network, {id(tokenizer): tokenizer} if tokenizer is not None else {})


def _with_networks(clip: Clip | SdClip, networks: Mapping[str, Any]) -> Clip | SdClip:
    if not isinstance(clip, SdClip):
        return Clip(networks[ENCODER], clip.device, clip.reader, clip.layer)
    encoders = {key: copy.copy(one) for key, one in clip.encoders.items()}
    for key, one in encoders.items():
        one.network = networks[key]
    return SdClip(encoders, clip.layer, clip.reader)


def _together(networks: Mapping[str, nn.Module]) -> nn.Module:
    return nn.ModuleDict({f"clip_{key}": nn.ModuleDict({"transformer": network}) for key, network in networks.items()})


def _device(clip: Clip | SdClip) -> torch.device:
    return next(iter(clip.encoders.values())).device if isinstance(clip, SdClip) else clip.device
