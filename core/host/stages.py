"""Guiders of several stages: what the time-decoupled guiders of both hosts share.

A host's guider is its own CFGGuider with :class:`StagedGuider` in front. It holds one guider a stage and hands each run to a leader: a
guider of the stage that begins the run, with :class:`Leader` in front, which asks the other stages where their noise levels come.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..diffusion.noise import NoiseLevel
from ..diffusion.time_decoupled import by_sigma, check_history, check_order, on_own_sigmas, share_of_steps, stage_of, starting_afresh
from ..errors import InputError
from .fit import check_same_latents, without_control
from .run import Stage

logger = logging.getLogger("rapiddraw")


def guided(guider: Any, positive: Any, negative: Any, cfg: float) -> Any:
    """Return `guider` with its prompts and its guidance scale set."""
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


class StagedGuider:
    """A GUIDER that hands each noise level to its stage (PanGu-Draw, section 4.1). To other nodes it is the first stage's guider.

    A run that starts below a stage's lowest level never loads that stage's model.
    """

    model_patcher: Any
    guests: tuple[Any, ...] = ()
    """The guiders of the stages after the first, whose guider this is."""
    levels: tuple[NoiseLevel, ...] = ()
    """The lowest noise level of each stage but the last, as the user gave it."""
    own_sigmas: tuple[Tensor | None, ...] = ()
    """The noise levels of each stage but the first, where it has its own."""
    frees: tuple[bool, ...] = ()
    """Whether each stage but the last frees its model's memory at its end."""
    history = "keep"
    _whole_run: Tensor | None = None
    leader: Callable[[tuple[Any, ...], tuple[float, ...], int], Any]
    """The host's class of leaders."""

    @property
    def guiders(self) -> tuple[Any, ...]:
        """The guider of each stage, the noisiest first."""
        return (self, *self.guests)

    def switches(self, sigmas: Tensor | None) -> tuple[float, ...]:
        """Return the lowest sigma of each stage but the last in a run along `sigmas`, on the first stage's schedule.

        Raises :class:`InputError` where a later stage would begin before an earlier one."""
        schedule = self.model_patcher.get_model_object("model_sampling")
        return check_order([level.on(schedule, sigmas) for level in self.levels])

    def sample(self, noise: Any, latent_image: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Sample as the host's CFGGuider does, led by the stage of the highest level. The log says which steps each stage draws."""
        switches = self.switches(sigmas if self._whole_run is None else self._whole_run)
        sigmas = on_own_sigmas(sigmas, switches, self.own_sigmas)
        if self.history == "reset":
            sampler = copy.copy(sampler)
            for switch in switches:
                sampler.sampler_function = starting_afresh(sampler.sampler_function, switch)
        if len(sigmas) > 1:
            logger.info("time-decoupled: %s", share_of_steps(sigmas, switches))
        first = 0 if sigmas.numel() == 0 else int(stage_of(sigmas.max(), switches))
        leader = self.leader(self.guiders, switches, first)
        leader.frees = self.frees
        return leader.sample(noise, latent_image, sampler, sigmas, *args, **kwargs)

    def scheduling_model(self) -> Any:
        """Return the MODEL whose schedule a run follows: that of the first stage that draws at all."""
        for guider, level in zip(self.guiders, self.levels, strict=False):
            never = level.value == 0 if level.needs_run else self._switch(level) == math.inf
            if not never:
                return guider.model_patcher
        return self.guiders[len(self.levels)].model_patcher

    def _switch(self, level: NoiseLevel) -> float:
        return level.on(self.model_patcher.get_model_object("model_sampling"))

    def for_run(self, whole: Tensor, history: str) -> Any:
        """Return this guider for one run, a part of the noise levels `whole`, from which its steps and shares are counted.

        With `history` "reset" the sampler starts afresh below each switch."""
        made = copy.copy(self)
        made.history, made._whole_run = check_history(history), whole
        return made


class Leader:
    """One run: the guider of the stage that begins it, which asks the other stages."""

    frees: tuple[bool, ...] = ()

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
    Raises :class:`InputError` for models of different latent spaces, and for a first stage that is a guider with guidance of its own.
    """
    first, *others = stages
    is_guider = hasattr(first.model, "model_patcher")
    made = _adopted(first.model, kind) if is_guider else guided(kind(first.model), first.positive, first.negative, first.cfg)
    lead = made.model_patcher
    for other in others:
        check_same_latents(lead, other.model)
    guests = []
    for other in others:
        same = is_guider or shapes_of(lead) == shapes_of(other.model)
        shared = [one if same else without_control(one) for one in (first.positive, first.negative)]
        own = [given if one is None else one for one, given in zip((other.positive, other.negative), shared, strict=True)]
        guests.append(guided(guest(other.model), own[0], own[1], other.cfg))
    made.guests = (*made.guests, *guests)
    made.levels = (*made.levels, *(stage.level for stage in stages[:-1]))
    made.own_sigmas = (*made.own_sigmas, *(stage.sigmas for stage in others))
    made.frees = (*made.frees, *(stage.free for stage in stages[:-1]))
    if not any(level.needs_run for level in made.levels):
        made.switches(None)  # a switch that cannot be is refused before any work
    return made


def _adopted(guider: Any, kind: Any) -> Any:
    """Return a guider of the class `kind` with the stages, prompts and guidance scale of another GUIDER."""
    if getattr(type(guider), "predict_noise", None) is not kind.predict_noise:
        raise InputError(
            f"the structure input takes a MODEL or the guider of RapidDrawTimeDecoupledGuider, CFGGuider or BasicGuider; "
            f"{type(guider).__name__} computes guidance of its own and cannot be one stage of several"
        )
    made = kind(guider.model_patcher)
    made.model_options, made.original_conds, made.cfg = guider.model_options, dict(guider.original_conds), guider.cfg
    for name in ("guests", "levels", "own_sigmas", "frees"):
        setattr(made, name, getattr(guider, name, ()))
    return made


class JoinedSwitch:
    """The switch of a composite MODEL, which meets its runs only by the noise levels that each evaluation carries."""

    def __init__(self, level: NoiseLevel, model_sampling: Any) -> None:
        self._level, self._schedule = level, model_sampling
        self._sigmas: Tensor | None = None
        self._switch = math.nan if level.needs_run else level.on(model_sampling)

    def on(self, sigmas: Tensor | None) -> float:
        """Return the structure model's lowest sigma in the run along `sigmas`, and log once a run which steps each model draws."""
        if sigmas is None and self._level.needs_run:
            raise InputError(f"a switch given as {self._level.unit} needs a sampler of ComfyUI's kind; give a timestep or a sigma instead")
        if sigmas is not None and sigmas is not self._sigmas:
            self._sigmas, self._switch = sigmas, self._level.on(self._schedule, sigmas)
            logger.info("time-decoupled: %s", share_of_steps(sigmas, [self._switch]))
        return self._switch
