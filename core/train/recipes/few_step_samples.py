"""Sheets of samples: the teacher's pictures above the student's."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ...files import replacing
from ...progress import Progress


def sheet(teacher: Tensor, student: Tensor) -> Tensor:
    """Return one IMAGE (1, 2 H, N W, 3) of pictures (N, H, W, 3): the teacher's above, the student's below. Of a video the first frame."""
    rows = [part[:, 0] if part.dim() == 5 else part for part in (teacher, student)]
    return rearrange(torch.stack(rows), "row n h w c -> 1 (row h) (n w) c").clamp(0, 1)


def write_samples(path: Path, teacher: Tensor, student: Tensor) -> Path:
    """Write the sheet as a PNG, and show it as a preview where the host can."""
    drawn = Image.fromarray((sheet(teacher, student)[0] * 255).round().byte().cpu().numpy())
    with replacing(path) as temporary:
        drawn.save(temporary, format="PNG")
    with Progress(1, "samples", "sheet") as bar:
        bar.update(preview=drawn)
    return path
