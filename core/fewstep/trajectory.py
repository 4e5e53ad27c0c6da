"""Ends of the teacher's own sampling run: the plain baseline, for any model.

    L = max(SNR, 1) || D_student(x_i) - x~ ||^2

x_i and x_(i+1) are states of one sampling run of the guided teacher, from one seed, at two neighbouring levels of the student; the teacher
takes many steps between them. x~ is the `denoised` that takes x_i to x_(i+1) in one step. With one step it is the regression from noise to
picture of Luhman and Luhman 2021; with rectified paths, the idea of Liu et al. 2023 (InstaFlow). The runs are drawn once, before training,
so that a training step needs no evaluation of the teacher.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion.noise import Convention
from .segment import Denoise, Segment, euler, guided, implied, truncated_snr, weighted_error


@torch.no_grad()
def teacher_run(
    teacher: Denoise, segment: Segment, levels: Tensor, parts: int, scale: float, report: Callable[[], object] = lambda: None
) -> Tensor:
    """Return the states (B, N + 1, C, ...) of a guided sampling run from `segment.x` at every `parts`-th of `levels` (N * parts + 1,).

    `report()` is called after every step.
    """
    x, states = segment.x, [segment.x]
    for i in range(len(levels) - 1):
        start, end = (level.to(x.device).expand(len(x)) for level in (levels[i], levels[i + 1]))
        x = euler(x, guided(teacher, x, start, segment, scale), start, end)
        if (i + 1) % parts == 0:
            states.append(x)
        report()
    return torch.stack(states, dim=1)


def trajectory_loss(student: Denoise, segment: Segment, reached: Tensor, convention: Convention) -> Tensor:
    """Return the loss, a scalar. `reached` (B, C, ...) are the teacher's states at `segment.end`."""
    wanted = implied(segment.x, segment.start, segment.end, reached)
    return weighted_error(student(segment.x, segment.start, segment.text), wanted, truncated_snr(convention, segment.start))
