"""A node pack for tests alone: ComfyUI's loaders give small models of the family that a file's metadata names.

The files have the names that the templates ask for, hold a few random weights, and say `family` in their metadata. The models are those of
families.py, made by ComfyUI's own classes; everything behind the loaders is ComfyUI's and the pack's own.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import folder_paths
import torch
from safetensors import safe_open

import nodes

sys.path.insert(0, str(Path(__file__).resolve().parent))
import families  # noqa: E402

NODE_CLASS_MAPPINGS: dict[str, type] = {}


class Text:
    """A text encoder that knows no words: a text's bytes choose the random tokens."""

    def __init__(self, family: str) -> None:
        self.family, self.cond_stage_model = family, torch.nn.Module()
        self.patches: dict[str, Any] = {}
        self.patcher = self

    def tokenize(self, text: str, **_: Any) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str, **_: Any) -> list[Any]:
        return families.conditioning(self.family, seed=zlib.crc32(tokens.encode()) % 1000)

    def clone(self) -> Text:
        return Text(self.family)

    def add_patches(self, patches: Any, *_: Any) -> list[str]:
        return list(patches)


def family_of(folder: str, name: str) -> tuple[str, int]:
    """The family that a file names, and a seed from its name."""
    with safe_open(folder_paths.get_full_path_or_raise(folder, name), framework="pt") as file:
        return file.metadata()["family"], zlib.crc32(name.encode()) % 1000


def load_unet(self: Any, unet_name: str, weight_dtype: str) -> tuple[Any]:
    family, seed = family_of("diffusion_models", unet_name)
    return (families.model(family, seed),)


def load_clip(self: Any, clip_name: str, type: str = "", device: str = "default") -> tuple[Any]:
    return (Text(family_of("text_encoders", clip_name)[0]),)


def load_vae(self: Any, vae_name: str) -> tuple[Any]:
    return (families.vae(family_of("vae", vae_name)[0]),)


def load_checkpoint(self: Any, ckpt_name: str) -> tuple[Any, Any, Any]:
    family, seed = family_of("checkpoints", ckpt_name)
    return families.model(family, seed), Text(family), families.vae(family)


def load_controlnet(self: Any, control_net_name: str) -> tuple[Any]:
    family, seed = family_of("controlnet", control_net_name)
    shape = {key: value for key, value in families.model(family).model.model_config.unet_config.items() if key != "out_channels"}
    shape |= {"dtype": torch.float32, "hint_channels": 3, "operations": comfy.ops.disable_weight_init, "device": None}
    network = comfy.cldm.cldm.ControlNet(**shape)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.05, generator=generator)
    return (comfy.controlnet.ControlNet(network, load_device=families.CPU),)


nodes.UNETLoader.load_unet = load_unet
nodes.CLIPLoader.load_clip = load_clip
nodes.VAELoader.load_vae = load_vae
nodes.CheckpointLoaderSimple.load_checkpoint = load_checkpoint
nodes.ControlNetLoader.load_controlnet = load_controlnet
