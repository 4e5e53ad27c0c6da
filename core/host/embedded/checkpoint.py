"""MODEL, CLIP and VAE of the embedded host from a Stable Diffusion checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...checkpoint.folder import read_folder
from ...checkpoint.parts import Checkpoint, TextPart
from ...checkpoint.single_file import read_single_file
from ...diffusion.schedule import NoiseSchedule
from ...errors import BundleError, InputError
from ...networks import build_network
from .model import BaseModel, Model
from .sd_clip import SdClip, SdEncoder
from .vae import Vae


def load_checkpoint(path: Path, device: torch.device) -> tuple[Model, SdClip, Vae]:
    """Return (MODEL, CLIP, VAE) in fp32 from a single file of SD 1.5, SDXL or its refiner, or from a diffusers folder.

    Raises :class:`BundleError` where parts lack or do not fit."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    found = read_folder(path) if path.is_dir() else read_single_file(path)
    unet = build_network(UNet2DConditionModel, found.unet.config, found.unet.tensors, f"{found.name}, U-Net")
    vae = build_network(AutoencoderKL, found.vae.config, found.vae.tensors, f"{found.name}, VAE")
    clip = make_clip(found, device)
    check_parts(found, unet, clip)
    try:
        schedule = NoiseSchedule(found.schedule)
    except InputError as error:
        raise BundleError(f"{found.name}: {error}") from error
    return Model(BaseModel(unet.to(device), schedule, found.latent, device)), clip, Vae(vae.to(device), found.latent, device)


def make_clip(checkpoint: Checkpoint, device: torch.device) -> SdClip:
    """Return the text encoders set up as ComfyUI does for each family: which id pads a row, and which layer's states are the tokens."""
    is_xl = "g" in checkpoint.texts
    encoders = {}
    for key, part in checkpoint.texts.items():
        network = text_network(part, f"{checkpoint.name}, text encoder {key}")
        pad = int(part.tokenizer.eos_token_id) if key == "l" else 0  # OpenCLIP was trained with rows padded by token 0
        layer = -2 if is_xl else None  # SD 2's folders leave out the last layer, which is not used
        encoders[key] = SdEncoder(network, part.tokenizer, device, pad=pad, hidden_layer=layer, is_normed=not is_xl)
    return SdClip(encoders)


def check_parts(checkpoint: Checkpoint, unet: Any, clip: SdClip) -> None:
    """Raise :class:`BundleError` unless the U-Net takes the VAE's latents, the text encoders' tokens, and no other conditioning."""
    config, channels = unet.config, checkpoint.latent.channels
    if (config["in_channels"], config["out_channels"]) != (channels, channels):
        raise BundleError(
            f"{checkpoint.name}: its U-Net takes {config['in_channels']} channels, its VAE makes {channels}; "
            "models for inpainting or image-to-image editing need ComfyUI"
        )
    width = sum(encoder.width for encoder in clip.encoders.values())
    if config["cross_attention_dim"] != width:
        raise BundleError(f"{checkpoint.name}: its U-Net attends to {config['cross_attention_dim']} features, its CLIP makes {width}")
    if config["addition_embed_type"] not in (None, "text_time") or config["class_embed_type"] is not None:
        raise BundleError(
            f"{checkpoint.name}: its U-Net takes a conditioning that is neither SD 1.5's nor SDXL's; run the graph in ComfyUI"
        )


def text_network(part: TextPart, name: str) -> Any:
    """Return transformers' CLIPTextModelWithProjection of a part. Raises :class:`BundleError`, which calls it `name`, where parts lack."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    def clip_text_model(**config: Any) -> Any:
        return CLIPTextModelWithProjection(CLIPTextConfig(**config))

    network = build_network(clip_text_model, part.config, part.tensors, name)
    # Not among a checkpoint's tensors, so still without memory.
    positions = torch.arange(part.config["max_position_embeddings"])[None]
    network.text_model.embeddings.register_buffer("position_ids", positions, persistent=False)
    return network
