"""ComfyUI's CLIPs in training: copies of their text encoders, patches merged in, which ComfyUI does not manage meanwhile."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import torch

from ...knowledge.attach import KnowledgeReader
from ..denoiser import frozen_dtype, keeping_copies, make_trainable
from ..texts import TextsInTraining
from .knowledge import KnowledgeTokenizer
from .lowrank import copy_model


def in_training(clip: Any) -> TextsInTraining:
    """See :meth:`TrainingTopic.texts`."""
    inner, device = _merged(clip), clip.patcher.load_device
    release = make_trainable(inner, device, frozen_dtype(device), trained=False)
    for module in inner.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = False
    with torch.inference_mode(False), torch.no_grad():  # autograd keeps no tensors of inference mode
        for module in inner.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.detach().to(device, copy=True)
    base = getattr(clip.tokenizer, "base", clip.tokenizer)

    def encode(text: str, reader: KnowledgeReader) -> Any:
        informed = clip.clone()
        informed.tokenizer = KnowledgeTokenizer(base, reader) if reader.attachments else base
        tokens = informed.tokenize(text)
        inner.reset_clip_options()
        if clip.layer_idx is not None:
            inner.set_clip_options({"layer": clip.layer_idx})
        inner.set_clip_options({"execution_device": device})
        with keeping_copies():  # ComfyUI's CLIP layers add to their tokens in place
            made = inner.encode_token_weights(tokens)
        return [[made[0], {"pooled_output": made[1]}]]

    return TextsInTraining(inner.eval(), device, encode, release)


def _merged(clip: Any) -> Any:
    inner = copy_model(clip.cond_stage_model, share=True)
    patcher = clip.patcher
    scratch = comfy.model_patcher.ModelPatcher(inner, load_device=patcher.offload_device, offload_device=patcher.offload_device)
    scratch.patches = {key: list(patches) for key, patches in patcher.patches.items()}
    for key in scratch.patches:
        scratch.patch_weight_to_device(key, device_to=patcher.offload_device)
    return inner
