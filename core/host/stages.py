"""Guiders of several stages: what the time-decoupled guiders of both hosts share.

A host's guider is its own CFGGuider with :class:`StagedGuider` in front. It holds one guider a stage and hands each run to a leader: a
guider of the stage that begins the run, with :class:`Leader` in front, which asks the other stages where their noise levels come.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..diffusion.time_decoupled import by_sigma, check_history, stage_of, starting_afresh, switch_sigma
from .fit import check_same_latents, without_control
from .run import Stage


def guided(guider: Any, positive: Any, negative: Any, cfg: float) -> Any:
    """Return `guider` with its prompts and its guidance scale set."""
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


class StagedGuider:
    """A GUIDER that hands each noise level to its stage (PanGu-Draw, section 4.1). To other nodes it is the first stage's guider.

    A run that starts below a stage's lowest level never loads that stage's model.
    """

    guests: tuple[Any, ...]
    """The guiders of the stages after the first, whose guider this is."""
    switches: tuple[float, ...]
    """The lowest noise level of each stage but the last."""
    leader: Callable[[tuple[Any, ...], tuple[float, ...], int], Any]
    """The host's class of leaders."""

    @property
    def guiders(self) -> tuple[Any, ...]:
        """The guider of each stage, the noisiest first."""
        return (self, *self.guests)

    def sample(self, noise: Any, latent_image: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Sample as the host's CFGGuider does, led by the stage of the highest level."""
        first = 0 if sigmas.numel() == 0 else int(stage_of(sigmas.max(), self.switches))
        return self.leader(self.guiders, self.switches, first).sample(noise, latent_image, sampler, sigmas, *args, **kwargs)


class Leader:
    """One run: the guider of the stage that begins it, which asks the other stages."""

    def __init__(self, guiders: tuple[Any, ...], switches: tuple[float, ...], own: int) -> None:
        lead = guiders[own]
        super().__init__(lead.model_patcher)  # type: ignore[call-arg] # the host's CFGGuider comes next
        self.model_options, self.original_conds, self.cfg = lead.model_options, lead.original_conds, lead.cfg
        self.guiders, self.switches, self.own = guiders, switches, own

    def denoised(self, x: Tensor, sigma: Tensor, ask: Callable[[int, Tensor, Tensor, Tensor | None], Tensor]) -> Tensor:
        """Return `denoised` of `x` (B, ...) at `sigma` (B,). `ask(stage, x, sigma, rows)` gives that of one stage, for some rows."""
        return by_sigma(x, sigma, self.switches, [functools.partial(ask, stage) for stage in range(len(self.guiders))])


def make_staged(stages: Sequence[Stage], kind: Callable[[Any], Any], guest: Callable[[Any], Any], shapes_of: Callable[[Any], Any]) -> Any:
    """Return a guider of the class `kind`, made of the first stage's model, with a guider `guest(model)` for every other stage.

    A ControlNet on the first stage's prompts acts on a stage without prompts of its own only if `shapes_of` the two models are equal.
    Raises :class:`InputError` for models of different latent spaces.
    """
    first, *others = stages
    for other in others:
        check_same_latents(first.model, other.model)
    schedule = first.model.get_model_object("model_sampling")
    made = guided(kind(first.model), first.positive, first.negative, first.cfg)
    guests = []
    for other in others:
        same = shapes_of(first.model) == shapes_of(other.model)
        shared = [one if same else without_control(one) for one in (first.positive, first.negative)]
        own = [given if one is None else one for one, given in zip((other.positive, other.negative), shared, strict=True)]
        guests.append(guided(guest(other.model), own[0], own[1], other.cfg))
    made.guests, made.switches = tuple(guests), tuple(switch_sigma(schedule, stage.t_from) for stage in stages[:-1])
    return made


def prepared_run(guider: StagedGuider, sampler: Any, history: str) -> tuple[Any, Any]:
    """Return (the MODEL whose schedule a run follows, the SAMPLER of the run).

    The schedule is that of the first stage that draws at all. With `history` "reset" the sampler starts afresh below each switch.
    """
    if check_history(history) == "reset":
        sampler = copy.copy(sampler)
        for switch in guider.switches:
            sampler.sampler_function = starting_afresh(sampler.sampler_function, switch)
    drawing = next((stage for stage, switch in enumerate(guider.switches) if switch < math.inf), len(guider.switches))
    return guider.guiders[drawing].model_patcher, sampler
