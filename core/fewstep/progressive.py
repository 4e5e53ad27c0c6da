"""Progressive distillation: a student that takes in one step what its teacher takes in two (Salimans and Ho 2022, algorithm 2).

    L = max(SNR, 1) || D_student(x_t) - x~ ||^2

x~ is the `denoised` that takes x_t to where the teacher's two steps of DDIM end (:func:`~.segment.implied`). After a round the student is
the teacher of the next one, which halves the number of steps again. The first teacher may be guided; its student is then used without
guidance (Meng et al. 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion.noise import Convention
from .segment import Denoise, Segment, guided, implied, truncated_snr, walk, weighted_error


def target(teacher: Denoise, segment: Segment, levels: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Return what the student must predict (B, C, ...): the teacher, guided by `scale`, takes `levels` (B, n + 1) from `segment.start` to
    `segment.end`; n is 2 in the paper."""
    with torch.no_grad():
        reached = walk(lambda x, sigma, _: guided(teacher, x, sigma, segment, scale), segment.x, levels, None)
        return implied(segment.x, segment.start, segment.end, reached)


def progressive_loss(
    student: Denoise, teacher: Denoise, segment: Segment, levels: Tensor, convention: Convention, scale: float = 1.0
) -> Tensor:
    """Return the loss, a scalar. `teacher`, `levels` and `scale` are those of :func:`target`; the student is evaluated without guidance."""
    wanted = target(teacher, segment, levels, scale)
    return weighted_error(student(segment.x, segment.start, segment.text), wanted, truncated_snr(convention, segment.start))
