"""A small U-Net whose every block changes the picture, and what it gives."""

from __future__ import annotations

from typing import Any

import torch
from rapiddraw.tests.helpers import UNET_CONFIG, seeded

CONFIG: dict[str, Any] = {**UNET_CONFIG, "layers_per_block": 2}
LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
TOKENS = torch.randn(2, 7, CONFIG["cross_attention_dim"], generator=torch.Generator().manual_seed(4))


def small_unet(**config: Any) -> Any:
    """diffusers' U-Net of two levels with random weights, in evaluation mode."""
    from diffusers import UNet2DConditionModel

    return seeded(lambda: UNet2DConditionModel(**(CONFIG | config))).eval()


def output(network: Any, latent: torch.Tensor = LATENT, **more: Any) -> torch.Tensor:
    """What a U-Net gives for a latent and fixed tokens."""
    with torch.no_grad():
        tokens = TOKENS[: len(latent)]
        return network(latent, torch.full((len(latent),), 300), encoder_hidden_states=tokens, return_dict=False, **more)[0]
