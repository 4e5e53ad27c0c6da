"""Networks with random weights for `bench gpu`: of the size of SD 1.5, of SDXL and of a diffusion transformer (PixArt's shape), or tiny."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .lowrank_speed import SD15

TOKENS = 77
_CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D", _CROSS[0], _CROSS[0]),
    "up_block_types": (_CROSS[1], _CROSS[1], "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048, "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
DIT: dict[str, Any] = {
    "num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "cross_attention_dim": 1152, "caption_channels": 4096,
    "in_channels": 4, "out_channels": 8, "patch_size": 2, "sample_size": 64, "norm_type": "ada_norm_single",
}  # fmt: skip
_TWO = {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 32}
_TINY: dict[str, dict[str, Any]] = {
    "sd15": {**_TWO, "down_block_types": (_CROSS[0], "DownBlock2D"), "up_block_types": ("UpBlock2D", _CROSS[1]), "attention_head_dim": 2},
    "sdxl": {
        **SDXL, **_TWO, "down_block_types": ("DownBlock2D", _CROSS[0]), "up_block_types": (_CROSS[1], "UpBlock2D"),
        "transformer_layers_per_block": (1, 2), "attention_head_dim": (2, 2), "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    },
    "dit": {
        **DIT, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": 32,
        "sample_size": 8,
    },
}  # fmt: skip
_FULL: dict[str, dict[str, Any]] = {"sd15": SD15, "sdxl": SDXL, "dit": DIT}
SIDES = {"sd15": 64, "sdxl": 128, "dit": 64}
"""Cells a side of the latents: 512, 1024 and 512 px."""
NAMES = tuple(_FULL)


@dataclass
class Subject:
    """A network and its call: `ask(network, x, timesteps)` for latents (B, 4, side, side) and timesteps (B,)."""

    name: str
    network: Any
    side: int
    ask: Callable[[Any, Any, Any], Any]

    def copied(self) -> Subject:
        """Return the same call of a copy of the network."""
        return replace(self, network=copy.deepcopy(self.network))

    def step(self, states: int = 1) -> Callable[[], Any]:
        """Return a function that evaluates `states` latents in one call and returns the output."""
        import torch

        device = next(self.network.parameters()).device
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(states, 4, self.side, self.side, generator=generator).to(device, self.network.dtype)
        timesteps = torch.full((states,), 500, device=device)

        def once() -> Any:
            with torch.no_grad():
                return self.ask(self.network, x, timesteps)

        return once


def subject(name: str, device: Any, tiny: bool) -> Subject:
    """Return one of :data:`NAMES` in float32 with random weights on `device`."""
    import torch
    from diffusers import PixArtTransformer2DModel, UNet2DConditionModel

    config = (_TINY if tiny else _FULL)[name]
    with torch.device(device):
        network: Any = (PixArtTransformer2DModel if name == "dit" else UNet2DConditionModel)(**config)
    network = network.eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in network.parameters():
        parameter.uniform_(-0.02, 0.02, generator=generator)
    width = config["caption_channels"] if name == "dit" else config["cross_attention_dim"]
    tokens = torch.randn(1, TOKENS, width, generator=torch.Generator().manual_seed(2))
    pooled = torch.randn(1, _pooled_width(config), generator=torch.Generator().manual_seed(3))

    def ask(network: Any, x: Any, timesteps: Any) -> Any:
        batch, text = len(x), tokens.to(x)
        if name == "dit":
            added = {"resolution": None, "aspect_ratio": None}
            return network(x, text.expand(batch, -1, -1), timesteps, added_cond_kwargs=added, return_dict=False)[0]
        given = {"text_embeds": pooled.to(x).expand(batch, -1), "time_ids": torch.ones(batch, 6, device=x.device, dtype=x.dtype)}
        extra = {"added_cond_kwargs": given} if name == "sdxl" else {}
        return network(x, timesteps, encoder_hidden_states=text.expand(batch, -1, -1), return_dict=False, **extra)[0]

    return Subject(name, network, 8 if tiny else SIDES[name], ask)


def _pooled_width(config: dict[str, Any]) -> int:
    return config.get("projection_class_embeddings_input_dim", 6 * 8 + 8) - 6 * config.get("addition_time_embed_dim", 8)
