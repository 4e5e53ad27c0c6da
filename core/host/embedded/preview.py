"""Small pictures of an estimate in latent space, for those who watch a sampling run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...bundles.format import LatentSpace

if TYPE_CHECKING:
    from PIL.Image import Image


def preview_of(space: LatentSpace, denoised: Any) -> Image | None:
    """Return the first of `denoised` (B, C, h, w), in the model's space, as a picture of w x h pixels: a linear map to RGB in [-1, 1].

    None where the latent space has no colours (`rgb_factors`), or where the latents are no pictures.
    """
    if space.rgb_factors is None or not isinstance(denoised, Tensor) or denoised.ndim != 4 or denoised.shape[1] != len(space.rgb_factors):
        return None
    import torch
    from PIL import Image

    first = denoised[0].detach().float().cpu()
    rgb = torch.einsum("chw,cr->hwr", first, torch.tensor(space.rgb_factors)) + torch.tensor(space.rgb_bias or (0.0, 0.0, 0.0))
    return Image.fromarray(((rgb + 1) / 2).nan_to_num(0.5).clamp(0, 1).mul(255).byte().numpy())
