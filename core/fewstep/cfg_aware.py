"""Step distillation aware of classifier-free guidance (SnapFusion; the talk's slide "CFG-Aware Step Distillation").

    L = max(SNR, 1) || D~_student(x_t, w) - x~(w) ||^2        D~(x, w) = D(x, empty) + w (D(x, c) - D(x, empty))

In a share p of the batches teacher and student are both guided, by one scale w drawn from a range. In the other batches both predict under
the prompt alone, which is the plain ("vanilla") progressive distillation. The student is used with guidance, as its teacher is: two
evaluations a step, at any scale of the range.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion.noise import Convention
from .progressive import target
from .segment import Denoise, Segment, guided, truncated_snr, weighted_error


def draw_scale(low: float, high: float, share: float) -> float:
    """Return the scale of a batch, from torch's default generator: one of [low, high] in a `share` of the batches, else 1."""
    chance, place = torch.rand(2).tolist()
    return low + (high - low) * place if chance < share else 1.0


def cfg_aware_loss(student: Denoise, teacher: Denoise, segment: Segment, levels: Tensor, convention: Convention, scale: float) -> Tensor:
    """Return the loss, a scalar. `levels` (B, n + 1) are the teacher's; `scale` 1 is the vanilla loss."""
    wanted = target(teacher, segment, levels, scale)
    denoised = guided(student, segment.x, segment.start, segment, scale)
    return weighted_error(denoised, wanted, truncated_snr(convention, segment.start))
