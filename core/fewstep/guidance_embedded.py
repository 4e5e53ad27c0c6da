"""Guidance as an input of the student: one evaluation a step at any scale (Meng et al. 2023, "On Distillation of Guided Diffusion Models").

The student is told the scale w and learns what its teacher, guided by w, takes in several steps. The paper embeds w by Fourier features
and adds it inside the network. Here the embedding is added to every token of the prompt instead, because this needs no change of the
network and works through a wrapper in any host. Its last layer starts at 0, so that an untrained student is the teacher.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import Linear

from ..diffusion.noise import Convention
from ..errors import BundleError
from .progressive import target
from .segment import Denoise, Segment, truncated_snr, weighted_error

FEATURES = 64
HIDDEN = 128
LARGEST = 20.0
"""The scale that the slowest Fourier feature turns a quarter for."""


class ScaleEmbedding(nn.Module):
    """An embedding of guidance scales, to be added to tokens of `width` features; 0 before it is trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.hidden = Linear(FEATURES, HIDDEN)
        self.out = Linear(HIDDEN, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, scale: Tensor) -> Tensor:
        """Return (B, 1, width) of the scales (B,)."""
        octaves = torch.linspace(0, 6, FEATURES // 2, device=scale.device)
        angles = scale.float()[:, None] * (math.pi / 2 / LARGEST) * 2**octaves
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.out(nn.functional.silu(self.hidden(features)))[:, None]

    @classmethod
    def of(cls, tensors: dict[str, Tensor], source: str) -> ScaleEmbedding:
        """Return the embedding whose state dict is `tensors`. Raises :class:`BundleError`, which says `source`, where it is none."""
        out = tensors.get("out.weight")
        if out is None or out.dim() != 2:
            raise BundleError(f"{source}: the embedding of the guidance scale is missing; train the student again")
        with torch.inference_mode(False):
            made = cls(out.shape[0])
            shapes = {name: tuple(weight.shape) for name, weight in made.state_dict().items()}
            if {name: tuple(weight.shape) for name, weight in tensors.items()} != shapes:
                raise BundleError(f"{source}: the embedding of the guidance scale has other parts than {', '.join(shapes)}")
            made.load_state_dict({name: weight.float() for name, weight in tensors.items()})
        return made.requires_grad_(False)


def draw_scales(low: float, high: float, count: int) -> Tensor:
    """Return scales (count,) of [low, high], from torch's default generator."""
    return low + (high - low) * torch.rand(count)


def guidance_embedded_loss(
    student: Denoise, teacher: Denoise, segment: Segment, levels: Tensor, convention: Convention, scale: Tensor
) -> Tensor:
    """Return the loss, a scalar. `student` is told the scales (B,) by its caller; the teacher takes `levels` (B, n + 1), guided by them."""
    wanted = target(teacher, segment, levels, scale)
    return weighted_error(student(segment.x, segment.start, segment.text), wanted, truncated_snr(convention, segment.start))
