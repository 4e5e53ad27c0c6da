"""What a few-step student is trained on: texts and latents, from pictures or drawn by the teacher itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...bundles.format import load_tensors
from ...diffusion.noise import Convention
from ...errors import BundleError
from ...fewstep.segment import Denoise, Segment, subdivide
from ...fewstep.trajectory import teacher_run
from ...files import replacing
from ...host.denoiser import Condition, Denoiser, together
from ...progress import Progress
from ..recipe import derived_seed
from ..writing import tried


@dataclass(frozen=True)
class Material:
    """`texts` are conditions, row 0 that of the empty prompt; `rows[i]` are the rows that describe item i.

    `latents` (N, C, ...) are in the model's scale. Where the teacher drew them, `states` (N, steps + 1, C, ...) are its states at the
    student's noise levels and `noise` (N, C, ...) is the unit noise it began with.
    """

    texts: Sequence[Condition]
    rows: list[list[int]]
    latents: Tensor
    states: Tensor | None = None
    noise: Tensor | None = None


@dataclass(frozen=True)
class Drawing:
    """How the teacher draws: along `levels` (N + 1,), each step divided into `parts`, guided by `scale`.

    It draws `count` latents of `shape` (C, ...), `batch` at a time, from the noise of `seed`.
    """

    levels: Tensor
    parts: int
    scale: float
    count: int
    batch: int
    shape: tuple[int, ...]
    seed: int


def joined(denoiser: Denoiser, texts: Sequence[Condition]) -> Any:
    """Return the conditions as the model's `denoise` takes those of a batch."""
    return together([dict(text) for text in texts]) if denoiser.batches else list(texts)


def to_device(given: Any, device: torch.device) -> Any:
    """Return a condition, or a list of them, with its tensors on `device`."""
    if isinstance(given, list):
        return [to_device(one, device) for one in given]
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in given.items()}


def first_state(convention: Convention, sigma: Tensor, noise: Tensor) -> Tensor:
    """Return the state (B, C, ...) in which a sampling run starts at its highest level, a number, from unit `noise`, as hosts start it."""
    return noise * (convention.beta(sigma) if convention.flow else convention.spread(sigma))


def draw(denoiser: Denoiser, teacher: Denoise, convention: Convention, texts: Sequence[Condition], how: Drawing, kept: Path) -> Material:
    """Return latents that the teacher draws of the prompts (rows 1 and up of `texts`, each in its turn), with its states on the way.

    They are kept in the file `kept` and read from it again, so that a run that resumes is not another run. Cancelling stops between steps.
    """
    prompts = len(texts) - 1
    rows = [[1 + i % prompts] for i in range(how.count)]
    generator = torch.Generator().manual_seed(derived_seed(how.seed, "teacher"))
    noise = torch.randn(how.count, *how.shape, generator=generator)
    states = _read(kept, (how.count, len(how.levels), *how.shape))
    if states is None:
        levels, found = subdivide(how.levels, denoiser.sigmas, how.parts), []
        batches = range(0, how.count, how.batch)
        with Progress(len(batches) * (len(levels) - 1), "drawing with the teacher", "step") as bar, torch.no_grad():
            for first in batches:
                part = noise[first : first + how.batch].to(denoiser.device)
                text, empty = (
                    to_device(joined(denoiser, [texts[row] for row in some]), denoiser.device)
                    for some in ([one[0] for one in rows[first : first + how.batch]], [0] * len(part))
                )
                start = Segment(first_state(convention, levels[0].to(part.device), part), levels[:1], levels[-1:], text, empty)
                found.append(teacher_run(teacher, start, levels, how.parts, how.scale, bar.update).float().cpu())
        states = torch.cat(found)
        tried(lambda: _write(kept, states), f"keeping what the teacher drew in {kept.name}")
    return Material(texts, rows, states[:, -1].clone(), states, noise)


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    try:
        found = load_tensors(path).get("states") if path.is_file() else None
    except (BundleError, OSError):
        return None
    return found if found is not None and tuple(found.shape) == shape else None


def _write(path: Path, states: Tensor) -> None:
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({"states": states.contiguous()}, temporary)
