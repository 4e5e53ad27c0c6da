"""What callers tell a host about a sampling run: its settings, and the models that draw it one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..checks import whole_number

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.noise import NoiseLevel

MAX_STEP = 10_000


@dataclass(frozen=True)
class SamplingRun:
    """Settings of a sampling run, as the stock KSampler has them; the model, the prompts and the guidance scale are the guider's.

    `denoise` (0..1) below 1 takes the last `steps` levels of a schedule of `steps / denoise`. The rest is KSamplerAdvanced's: the run
    takes the steps from `start_step` to the one before `end_step`, starts with or without noise, and a run that stops early leaves its
    noise in the latent or takes it out in its last step. Raises :class:`InputError` for a step outside 0..10000.
    """

    seed: int
    steps: int
    sampler_name: str
    scheduler: str
    denoise: float = 1.0
    start_step: int = 0
    end_step: int = MAX_STEP
    add_noise: bool = True
    leftover_noise: bool = False

    def __post_init__(self) -> None:
        whole_number("start_at_step", self.start_step, 0, MAX_STEP)
        whole_number("end_at_step", self.end_step, 0, MAX_STEP)

    def part_of(self, sigmas: Tensor) -> Tensor:
        """Return the part of the whole run's `sigmas` (N+1,) that is sampled."""
        return cut_sigmas(sigmas, self.start_step, self.end_step, not self.leftover_noise)


def cut_sigmas(sigmas: Tensor, start_step: int, last_step: int, force_full_denoise: bool) -> Tensor:
    """Return the part of `sigmas` (steps + 1,) that KSamplerAdvanced samples: from `start_step` to `last_step`.

    With `force_full_denoise` a part that stops early ends at sigma 0. A part without a step has no levels."""
    if last_step < len(sigmas) - 1:
        sigmas = sigmas[: last_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    return sigmas[start_step:] if start_step < len(sigmas) - 1 else sigmas[:0]


@dataclass(frozen=True)
class Stage:
    """One model of a time-decoupled run, with its prompts (CONDITIONING) and its guidance scale.

    It draws from the level `t_from` upwards, as far as the stage before it; the last stage has `t_from` 0. A whole number is a timestep
    on the first stage's schedule. A prompt that is None is the first stage's. `sigmas` (SIGMAS) are the stage's own noise levels from
    its hand-over on. With `free` the model's memory is freed when the next stage takes over.

    The first stage's `model` may be a GUIDER: the stages before this hand-over. Its prompts are then those of the next stage.
    """

    model: Any
    positive: Any
    negative: Any
    cfg: float
    t_from: int | NoiseLevel = 0
    sigmas: Tensor | None = None
    free: bool = False

    @property
    def level(self) -> NoiseLevel:
        """The lowest noise level of the stage."""
        from ..diffusion.noise import NoiseLevel

        return self.t_from if isinstance(self.t_from, NoiseLevel) else NoiseLevel(self.t_from)
