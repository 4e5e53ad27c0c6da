"""What callers tell a host about a sampling run: its settings, and the models that draw it one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SamplingRun:
    """Settings of a sampling run, as the stock KSampler has them; the model, the prompts and the guidance scale are the guider's.

    `denoise` (0..1) below 1 takes the last `steps` levels of a schedule of `steps / denoise`.
    """

    seed: int
    steps: int
    sampler_name: str
    scheduler: str
    denoise: float = 1.0


@dataclass(frozen=True)
class Stage:
    """One model of a time-decoupled run, with its prompts (CONDITIONING) and its guidance scale.

    It draws from timestep `t_from` (0..1000, on the first stage's schedule) upwards, as far as the stage before it; the last stage has
    `t_from` 0. A prompt that is None is the first stage's.
    """

    model: Any
    positive: Any
    negative: Any
    cfg: float
    t_from: int = 0
