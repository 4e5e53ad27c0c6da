"""Small random-weight models of many families, made by ComfyUI's own classes.

A probe imports this module after `inside`. For each name of `available()`:

    model(name)          a MODEL; `seed` chooses its weights
    latent(name)         a LATENT of the family's layout, (B, C, H, W) or (B, C, T, H, W), with zeros; `batch` and `seed` (None: zeros)
    conditioning(name)   a CONDITIONING with the keys that the family's text encoder gives; `seed` chooses the text
    vae(name)            ComfyUI's VAE class around a network without weights, with the family's channels, factor and layout

`FAMILIES[name]` says what a family is. Families that the running ComfyUI lacks are not in `available()`. A network has one or two blocks
and runs in milliseconds. The sampling class, the shift, the latent format and the kind of prediction are the family's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from torch import Tensor

CPU = torch.device("cpu")
TOKENS = 7  # in each prompt
FACTOR = 8  # pixels to a cell of a latent


@dataclass(frozen=True)
class Family:
    """One family: `config` names its class in comfy.supported_models, `unet` is its network's settings, made small.

    `size` is the latent's shape without the batch, `width` that of a token. `extra` maps more keys of the conditioning to a shape, a number
    or a function of a generator. `state` holds what the class reads off a checkpoint. `unet_blocks` says that the network is a U-Net of
    Stable Diffusion's kind; `flow` that its state is (1 - sigma) x0 + sigma noise.
    """

    config: str
    unet: dict[str, Any]
    size: tuple[int, ...]
    width: int
    extra: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    unet_blocks: bool = False
    flow: bool = True

    @property
    def video(self) -> bool:
        """Whether the latent has an axis of time."""
        return len(self.size) == 4


_UNET: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
    "transformer_depth": [1, 0], "transformer_depth_output": [1, 1, 0, 0], "transformer_depth_middle": 1, "context_dim": 32,
    "num_heads": 2, "num_head_channels": -1, "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": False,
    "adm_in_channels": None, "use_temporal_attention": False,
}  # fmt: skip
_ADM = {**_UNET, "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 64 + 1536, "num_heads": -1,
        "num_head_channels": 16}  # fmt: skip
_FLUX: dict[str, Any] = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 24, "context_in_dim": 32,
    "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12], "theta": 10000,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
_CHROMA = {key: value for key, value in _FLUX.items() if key != "guidance_embed"} | {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 1,
}  # fmt: skip
_LUMINA: dict[str, Any] = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "cap_feat_dim": 32, "n_layers": 1, "qk_norm": True,
    "n_heads": 2, "n_refiner_layers": 1, "n_kv_heads": 1, "axes_dims": [8, 12, 12], "axes_lens": [300, 64, 64], "multiple_of": 32,
    "ffn_dim_multiplier": 1.0,
}  # fmt: skip
_WAN: dict[str, Any] = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 64, "out_dim": 16, "num_heads": 2, "ffn_dim": 96, "num_layers": 1, "freq_dim": 32,
    "in_dim": 16, "text_dim": 32, "text_len": 16,
}  # fmt: skip
_HUNYUAN: dict[str, Any] = {
    "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2], "vec_in_dim": 24, "context_in_dim": 32,
    "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12], "theta": 256,
    "qkv_bias": True, "guidance_embed": False, "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None,
    "meanflow_sum": False,
}  # fmt: skip
_COSMOS: dict[str, Any] = {
    "max_img_h": 32, "max_img_w": 32, "max_frames": 16, "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
    "model_channels": 64, "num_blocks": 1, "num_heads": 2, "crossattn_emb_channels": 32, "pos_emb_cls": "rope3d", "use_adaln_lora": True,
    "adaln_lora_dim": 16,
}  # fmt: skip
_KANDINSKY: dict[str, Any] = {
    "image_model": "kandinsky5", "in_text_dim": 32, "in_text_dim2": 24, "time_dim": 32, "model_dim": 64, "ff_dim": 96, "num_text_blocks": 1,
    "num_visual_blocks": 1, "axes_dims": (16, 24, 24),
}  # fmt: skip
_V_PREDICTION = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}

FAMILIES: dict[str, Family] = {
    "SD 1.5": Family("SD15", _UNET, (4, 16, 16), 32, unet_blocks=True, flow=False),
    "SD 1.5 inpainting": Family("SD15", {**_UNET, "in_channels": 9}, (4, 16, 16), 32, unet_blocks=True, flow=False),
    "SD 2": Family("SD20", _UNET, (4, 16, 16), 32, state=_V_PREDICTION, unet_blocks=True, flow=False),
    "SDXL": Family("SDXL", _ADM, (4, 16, 16), 32, {"pooled_output": 64}, unet_blocks=True, flow=False),
    "Playground 2.5": Family(
        "SDXL", _ADM, (4, 16, 16), 32, {"pooled_output": 64},
        {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)}, unet_blocks=True, flow=False,
    ),
    "Stable Cascade": Family(
        "Stable_Cascade_C",
        {"stable_cascade_stage": "c", "c_cond": 64, "c_hidden": [64, 64], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]], "c_clip_text": 32,
         "c_clip_text_pooled": 24},
        (16, 8, 8), 32, {"pooled_output": 24}, flow=False,
    ),
    "PixArt Sigma": Family(
        "PixArtSigma",
        {"image_model": "pixart_sigma", "hidden_size": 64, "in_channels": 4, "depth": 1, "num_heads": 2, "input_size": 16,
         "caption_channels": 32, "pe_interpolation": 1, "micro_condition": False, "model_max_length": 16},
        (4, 40, 40), 32, flow=False,  # its positions need 33 rows
    ),
    "HunyuanDiT": Family(
        "HunyuanDiT1",
        {"image_model": "hydit1", "hidden_size": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "text_states_dim": 32,
         "text_states_dim_t5": 24, "text_len": TOKENS, "text_len_t5": TOKENS, "size_cond": False, "use_style_cond": False},
        (4, 16, 16), 32,
        {"conditioning_mt5xl": (TOKENS, 24), "attention_mask": "ones", "attention_mask_mt5xl": "ones"}, flow=False,
    ),
    "SD 3": Family(
        "SD3",
        {"in_channels": 16, "input_size": None, "patch_size": 2, "depth": 2, "num_blocks": 1, "adm_in_channels": 24, "context_size": 32,
         "pos_embed_max_size": 32, "pos_embed_scaling_factor": None, "qk_norm": "rms",
         "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 128}}},
        (16, 16, 16), 32, {"pooled_output": 24},
    ),
    "AuraFlow": Family(
        "AuraFlow",
        {"cond_seq_dim": 32, "dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "max_seq": 256},
        (4, 16, 16), 32,
    ),
    "Flux": Family("Flux", _FLUX, (16, 16, 16), 32, {"pooled_output": 24, "guidance": 3.5}),
    "Flux schnell": Family("FluxSchnell", {**_FLUX, "guidance_embed": False}, (16, 16, 16), 32, {"pooled_output": 24}),
    "Flux 2": Family(
        "Flux2",
        {**_FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1, "vec_in_dim": None,
         "axes_dim": [8, 8, 8, 8], "qkv_bias": False, "txt_ids_dims": [3], "global_modulation": True, "mlp_silu_act": True,
         "ops_bias": False},
        (128, 8, 8), 32, {"guidance": 4.0},
    ),
    "Chroma": Family("Chroma", _CHROMA, (16, 16, 16), 32),
    "Lumina 2": Family("Lumina2", _LUMINA, (16, 16, 16), 32, {"attention_mask": "ones"}),
    "Z-Image": Family(
        "ZImage",
        {**_LUMINA, "dim": 256, "axes_dims": [32, 48, 48], "n_kv_heads": 2, "rope_theta": 256.0, "z_image_modulation": True,
         "time_scale": 1000.0, "pad_tokens_multiple": 32},
        (16, 16, 16), 32, {"attention_mask": "ones"},
    ),
    "HiDream": Family(
        "HiDream",
        {"image_model": "hidream", "attention_head_dim": 32, "axes_dims_rope": [16, 8, 8], "caption_channels": [24, 32],
         "max_resolution": [32, 32], "in_channels": 16, "out_channels": 16, "llama_layers": [0, 1], "num_attention_heads": 2,
         "num_routed_experts": 2, "num_activated_experts": 1, "num_layers": 1, "num_single_layers": 1, "patch_size": 2, "text_emb_dim": 24},
        (16, 16, 16), 24, {"pooled_output": 24, "conditioning_llama3": (2, TOKENS, 32)},
    ),
    "Qwen-Image": Family(
        "QwenImage",
        {"image_model": "qwen_image", "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 32,
         "axes_dims_rope": (8, 12, 12)},
        (16, 1, 16, 16), 32, {"attention_mask": "ones"},
    ),
    "OmniGen 2": Family(
        "Omnigen2",
        {"image_model": "omnigen2", "axes_dim_rope": [8, 12, 12], "axes_lens": [64, 64, 64], "hidden_size": 64, "multiple_of": 32,
         "num_attention_heads": 2, "num_kv_heads": 1, "num_layers": 1, "num_refiner_layers": 1, "text_feat_dim": 32,
         "timestep_scale": 1000.0},
        (16, 16, 16), 32, {"attention_mask": "ones"},
    ),
    "Cosmos Predict 2": Family(
        "CosmosT2IPredict2", {**_COSMOS, "image_model": "cosmos_predict2", "pos_emb_learnable": True}, (16, 1, 16, 16), 32,
        flow=False,  # its state is x0 + sigma noise
    ),
    "Anima": Family("Anima", {**_COSMOS, "image_model": "anima", "pos_emb_learnable": True}, (16, 1, 16, 16), 32),
    "HunyuanImage 2.1": Family(
        "HunyuanImage21",
        {**_HUNYUAN, "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "vec_in_dim": None, "axes_dim": [16, 16]},
        (64, 8, 8), 32, {"attention_mask": "ones"},
    ),
    "Kandinsky 5 image": Family(
        "Kandinsky5Image", {**_KANDINSKY, "visual_embed_dim": 64, "rope_scale_factor": (1.0, 1.0, 1.0)}, (16, 1, 16, 16), 32,
        {"pooled_output": 24},
    ),
    "Wan 2.2": Family("WAN21_T2V", _WAN, (16, 2, 16, 16), 32),
    "Wan 2.2 image": Family("WAN21_I2V", {**_WAN, "model_type": "i2v", "in_dim": 36}, (16, 2, 16, 16), 32),
    "Wan 2.2 5B": Family("WAN22_T2V", {**_WAN, "in_dim": 48, "out_dim": 48}, (48, 2, 8, 8), 32),
    "HunyuanVideo": Family(
        "HunyuanVideo", {**_HUNYUAN, "guidance_embed": True}, (16, 2, 16, 16), 32,
        {"pooled_output": 24, "guidance": 6.0},
    ),
    "LTX Video": Family(
        "LTXV",
        {"image_model": "ltxv", "cross_attention_dim": 64, "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": 32,
         "num_layers": 1},
        (128, 2, 8, 8), 32, {"attention_mask": "ones", "frame_rate": 25},
    ),
    "Cosmos 1": Family(
        "CosmosT2V",
        {**_COSMOS, "image_model": "cosmos", "block_config": "FA-CA-MLP", "pos_emb_learnable": False, "block_x_format": "THWBD",
         "affline_emb_norm": True, "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable"},
        (16, 2, 16, 16), 32, flow=False,
    ),
    "Kandinsky 5 video": Family("Kandinsky5", {**_KANDINSKY, "visual_embed_dim": 132}, (16, 2, 16, 16), 32, {"pooled_output": 24}),
    "Krea 2": Family(
        "Krea2",
        {"image_model": "krea2", "features": 64, "tdim": 32, "txtdim": 32, "heads": 2, "kvheads": 1, "multiplier": 2, "layers": 1,
         "patch": 2, "channels": 16, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2},
        (16, 1, 16, 16), 64,
    ),
    "Ernie Image": Family(
        "ErnieImage",
        {"image_model": "ernie", "hidden_size": 64, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 96, "text_in_dim": 32,
         "rope_axes_dim": (8, 12, 12)},
        (128, 8, 8), 32,
    ),
    "JoyImage": Family(
        "JoyImage",
        {"image_model": "joyimage", "hidden_size": 64, "num_attention_heads": 2, "text_dim": 32, "mlp_width_ratio": 2.0, "num_layers": 1,
         "rope_dim_list": [8, 12, 12], "theta": 10000},
        (16, 1, 16, 16), 32,
    ),
    "CogVideoX": Family(
        "CogVideoX_T2V",
        {"image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 64, "time_embed_dim": 32, "text_embed_dim": 32,
         "num_layers": 1, "sample_width": 16, "sample_height": 16, "sample_frames": 13, "max_text_seq_length": TOKENS,
         "use_rotary_positional_embeddings": True},
        (16, 2, 16, 16), 32, flow=False,
    ),
}  # fmt: skip


def available() -> list[str]:
    """Return the names of the families that the running ComfyUI has, in the order of `FAMILIES`."""
    return [name for name, family in FAMILIES.items() if hasattr(comfy.supported_models, family.config)]


def model(name: str, seed: int = 0, std: float = 0.05) -> Any:
    """Return a MODEL of the family `name` in float32 on the CPU, with normal weights of deviation `std`."""
    family = FAMILIES[name]
    config = getattr(comfy.supported_models, family.config)(family.unet)
    config.unet_config |= family.unet  # the class has put its own number of heads there
    config.set_inference_dtype(torch.float32, None)
    inner = config.get_model(dict(family.state), "")
    if hasattr(inner.diffusion_model, "llm_adapter"):  # Anima's: 133 M weights that these tokens do not pass
        inner.diffusion_model.llm_adapter = torch.nn.Identity()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in inner.diffusion_model.parameters():
            parameter.normal_(std=std, generator=generator)
    return comfy.model_patcher.ModelPatcher(inner.eval(), CPU, CPU)


def latent(name: str, batch: int = 1, seed: int | None = None) -> dict[str, Tensor]:
    """Return a LATENT of the family's layout: zeros, or normal values drawn from `seed`."""
    shape = (batch, *FAMILIES[name].size)
    return {"samples": torch.zeros(shape) if seed is None else torch.randn(shape, generator=torch.Generator().manual_seed(seed))}


def conditioning(name: str, seed: int = 0) -> list[Any]:
    """Return a CONDITIONING of the family with random tokens, (1, 7, width), and the other keys that its text encoder gives."""
    family, generator = FAMILIES[name], torch.Generator().manual_seed(1000 + seed)
    values: dict[str, Any] = {"pooled_output": None}
    for key, what in family.extra.items():
        if what == "ones":
            values[key] = torch.ones(1, TOKENS, dtype=torch.long)
        elif isinstance(what, int) and key == "pooled_output":
            values[key] = torch.randn(1, what, generator=generator)
        elif isinstance(what, tuple):
            values[key] = torch.randn(1, *what, generator=generator)
        else:
            values[key] = what
    return [[torch.randn(1, TOKENS, family.width, generator=generator), values]]


def vae(name: str) -> Any:
    """Return a VAE of the family. Each side of the latent is `FACTOR` times smaller than the picture's (whatever the real factor is). With
    an axis of time, one latent frame stands for the first picture and one for every 4 that follow.

    A picture is made of the first three channels: `decode` gives 0.5 + 0.1 of them, `encode` the opposite, and zeros in the other channels.
    So `encode(decode(x))` keeps the first three channels as long as they lie within -5 and 5.
    """
    family = FAMILIES[name]
    made = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    made.first_stage_model = Colours(family.size[0], family.video)
    made.patcher = comfy.model_patcher.ModelPatcher(made.first_stage_model, CPU, CPU)
    made.latent_channels, made.downscale_ratio, made.upscale_ratio = family.size[0], FACTOR, FACTOR
    if family.video:
        made.latent_dim = 3
        made.downscale_ratio = (lambda frames: max(0, math.floor((frames + 3) / 4)), FACTOR, FACTOR)
        made.upscale_ratio = (lambda frames: max(0, frames * 4 - 3), FACTOR, FACTOR)
        made.downscale_index_formula = made.upscale_index_formula = (4, FACTOR, FACTOR)
    return made


class Colours(torch.nn.Module):
    """The network of the stand-in, on pixels between -1 and 1: (B, 3, H, W), and (B, 3, T, H, W) with an axis of time."""

    def __init__(self, channels: int, video: bool) -> None:
        super().__init__()
        self.channels, self.video = channels, video
        self.unused = torch.nn.Parameter(torch.zeros(1))  # ComfyUI reads a device off the weights

    def encode(self, pixels: Tensor, *_: Any, **__: Any) -> Tensor:
        pooled = torch.nn.functional.avg_pool3d if self.video else torch.nn.functional.avg_pool2d
        colours = pooled(pixels, (1, FACTOR, FACTOR))[:, :, ::4] if self.video else pooled(pixels, FACTOR)
        return torch.nn.functional.pad(colours * 5, [0, 0] * (colours.ndim - 2) + [0, self.channels - 3])

    def decode(self, samples: Tensor, *_: Any, **__: Any) -> Tensor:
        colours = samples[:, :3] / 5
        if self.video:
            colours = colours.repeat_interleave(4, dim=2)[:, :, 3:]
        return colours.repeat_interleave(FACTOR, dim=-2).repeat_interleave(FACTOR, dim=-1)


class Texts:
    """A stand-in for a CLIP: conditionings of a family, by the text's length, of two different lengths."""

    def __init__(self, name: str) -> None:
        self.name = name

    def tokenize(self, text: str, **_: Any) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str, **_: Any) -> Any:
        (tokens, details), short = conditioning(self.name, seed=len(text))[0], len(text) % 2
        cut = {key: value[:, short:] if key.startswith("attention_mask") else value for key, value in details.items()}
        return [[tokens[:, short:], cut]]


def drawn(model: Any, name: str) -> Tensor:
    """What KSampler draws with a MODEL of a family in two steps."""
    import nodes

    texts = [conditioning(name, seed=seed) for seed in (1, 2)]
    return nodes.common_ksampler(model, 1, 2, 1.0, "euler", "simple", *texts, latent(name))[0]["samples"]
