"""Stable Diffusion checkpoints with random weights, as single files and as diffusers folders, in any size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from rapiddraw.tests import sd_layout as layout
from rapiddraw.tests.helpers import UNET_CONFIG, VAE_CONFIG, seeded

WORDS = ("red", "fruit", "green", "hill", "photo", "round", "blue", "sky")


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of CLIP's kind with a small vocabulary: `vocab.json` and `merges.txt`."""
    letters = [chr(code) for code in range(33, 127)]
    vocabulary, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merge = (parts[0], parts[1])
            parts[:2] = ["".join(merge)]
            if parts[0] not in vocabulary:
                vocabulary.append(parts[0])
                merges.append(merge)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def clip_network(vocabulary: int, width: int = 32, layers: int = 3, seed: int = 0, **config: Any) -> Any:
    """transformers' CLIPTextModelWithProjection with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    whole = {
        "vocab_size": vocabulary, "hidden_size": width, "projection_dim": width, "intermediate_size": 2 * width,
        "num_hidden_layers": layers, "num_attention_heads": 2, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1,
        "pad_token_id": 0, **config,
    }  # fmt: skip
    return seeded(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**whole)).eval(), seed)


def narrow_sd15(vocabulary: int, vae: layout.Shapes | None = None) -> layout.Shapes:
    """SD 1.5's layout at a hundredth of its size: two levels, the second without attention, a VAE of factor 8."""
    parts = {
        "model.diffusion_model.": layout.unet((32, 64), (1, 0), middle=1, layers=1, context=64),
        "first_stage_model.": vae or layout.vae((32, 32, 32, 32), layers=1),
        "cond_stage_model.transformer.": layout.clip(64, 2, vocabulary),
    }
    return joined(parts)


def narrow_sdxl(vocabulary: int, vae: layout.Shapes | None = None) -> layout.Shapes:
    """SDXL's layout: two text encoders, a level without attention and one of depth 2, sizes beside the tokens."""
    parts = {
        "model.diffusion_model.": layout.unet((64, 128), (0, 2), middle=2, layers=2, context=192, adm=128 + 6 * 256, is_linear=True),
        "first_stage_model.": vae or layout.vae((32, 32, 32, 32), layers=1),
        "conditioner.embedders.0.transformer.": layout.clip(64, 3, vocabulary),
        "conditioner.embedders.1.model.": layout.open_clip(128, 3, vocabulary),
    }
    return joined(parts)


def narrow_refiner(vocabulary: int, vae: layout.Shapes | None = None) -> layout.Shapes:
    """The layout of SDXL's refiner: OpenCLIP's text encoder alone, no attention on the last level but behind it, five numbers."""
    parts = {
        "model.diffusion_model.": layout.unet(
            (64, 128, 128), (0, 2, 0), middle=2, layers=2, context=128, adm=128 + 5 * 256, is_linear=True
        ),
        "first_stage_model.": vae or layout.vae((32, 32, 32, 32), layers=1),
        "conditioner.embedders.0.model.": layout.open_clip(128, 3, vocabulary),
    }
    return joined(parts)


def joined(parts: dict[str, layout.Shapes]) -> layout.Shapes:
    """One file's tensors from its parts' by prefix."""
    return {prefix + name: shape for prefix, shapes in parts.items() for name, shape in shapes.items()}


def write_single_file(path: Path, shapes: layout.Shapes, seed: int = 0, dtype: torch.dtype = torch.float32, **more: torch.Tensor) -> Path:
    """A checkpoint of random weights whose activations stay of the order of one: norms near the identity, the rest scaled by fan-in."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(2**22 + 15, generator=generator)  # drawn once and used from another start: a thousand million draws take long
    tensors: dict[str, torch.Tensor] = dict(more)
    for name, shape in shapes.items():
        drawn = pool[len(tensors) :][: math.prod(shape)].to(dtype)
        drawn = drawn.repeat(-(-math.prod(shape) // len(drawn)))[: math.prod(shape)].reshape(shape)
        if len(shape) < 2:
            tensors[name] = float(name.endswith("weight") or not shape) + 0.05 * drawn
        else:
            tensors[name] = drawn * (0.5 if "embedding" in name else math.prod(shape[1:]) ** -0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(path))
    return path


def write_folder(folder: Path, is_xl: bool = False, **scheduler: Any) -> Path:
    """A diffusers folder with random weights, written by the libraries' own `save_pretrained`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    vocabulary = len(json.loads((write_tokenizer(folder / "tokenizer") / "vocab.json").read_text(encoding="utf-8")))
    extra: dict[str, Any] = {}
    if is_xl:
        write_tokenizer(folder / "tokenizer_2")
        extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 16, "projection_class_embeddings_input_dim": 64 + 6 * 16}
        clip_network(vocabulary, width=64, seed=4).save_pretrained(folder / "text_encoder_2")
    unet = {**UNET_CONFIG, "cross_attention_dim": 32 + 64 * is_xl, **extra}
    seeded(lambda: UNet2DConditionModel(**unet), 1).save_pretrained(folder / "unet")
    seeded(lambda: AutoencoderKL(**VAE_CONFIG, scaling_factor=0.13 if is_xl else 0.18), 2).save_pretrained(folder / "vae")
    clip_network(vocabulary, width=32, seed=3).save_pretrained(folder / "text_encoder")
    schedule = {
        "_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "num_train_timesteps": 1000, "prediction_type": "epsilon", **scheduler,
    }  # fmt: skip
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule), encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}), encoding="utf-8")
    return folder


CLIP_TOKENS, VAE_WIDTHS = 49408, (128, 256, 512, 512)  # what ComfyUI takes for granted


def compact_sd15() -> layout.Shapes:
    """The least that ComfyUI takes for SD 1.5: its text encoder and its VAE, and a U-Net of its width with three blocks."""
    parts = {
        "model.diffusion_model.": layout.unet((320, 320), (1, 0), middle=1, layers=1, context=768),
        "first_stage_model.": layout.vae(VAE_WIDTHS),
        "cond_stage_model.transformer.": layout.clip(768, 12, CLIP_TOKENS),
    }
    return joined(parts)


def compact_controlnet() -> layout.Shapes:
    """A ControlNet for the U-Net of :func:`compact_sd15`, in a file of its own."""
    prefix = "model.diffusion_model."
    unet = {name.removeprefix(prefix): shape for name, shape in compact_sd15().items() if name.startswith(prefix)}
    return joined({"control_model.": layout.controlnet(unet)})


def full_sd15() -> layout.Shapes:
    """SD 1.5 in full: 1.07 billion parameters."""
    parts = {
        "model.diffusion_model.": layout.unet((320, 640, 1280, 1280), (1, 1, 1, 0), middle=1, layers=2, context=768),
        "first_stage_model.": layout.vae(VAE_WIDTHS),
        "cond_stage_model.transformer.": layout.clip(768, 12, CLIP_TOKENS),
    }
    return joined(parts)
