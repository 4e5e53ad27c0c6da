"""Guiders of several models in ComfyUI. One leads the run; the others are guests, loaded when they are first asked.

ComfyUI prepares one model, its conditionings and its hooks before a sampling run (`CFGGuider.sample`) and undoes that after the run. A
guest does the same in the middle of another guider's run; it undoes it when that run ends, also where the run fails.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...diffusion.time_decoupled import repeat_rows
from ..stages import Leader, StagedGuider

_PER_MODEL_LISTS = ("sampler_pre_cfg_function", "sampler_post_cfg_function")


@dataclass(frozen=True)
class Run:
    """The inputs of the leading guider's run. `latent_image` is not scaled yet."""

    noise: Tensor
    latent_image: Tensor
    device: torch.device
    denoise_mask: Tensor | None
    seed: int | None
    sigmas: Tensor
    latent_shapes: Any


class GuestGuider(comfy.samplers.CFGGuider):
    """A guider that another guider's run can ask: :meth:`guest_denoised`, and :meth:`leave` when that run ends."""

    conds: dict[str, Any]
    model_options: dict[str, Any]
    _before: tuple[Any, Any] | None = None  # what leave() puts back; None outside a run
    _run_options: Any = None

    def guest_denoised(self, run: Run, x: Tensor, sigma: Tensor, rows: Tensor | None, options: Callable[..., Any]) -> Tensor:
        """Return `denoised` of `x` at `sigma` by this guider's model; `rows` as in :func:`by_sigma`.

        `options(own)` are the model options."""
        if not self.is_entered:
            self._enter(run)
        return self.denoised_of_rows(x, sigma, rows, options(self._run_options), run.seed)

    def denoised_of_rows(self, x: Tensor, sigma: Tensor, rows: Tensor | None, options: Any, seed: int | None) -> Tensor:
        """Return the `denoised` of a plain guider for some rows of a batch only."""
        whole = self.conds
        if rows is not None:
            self.conds = {key: [entry_rows(entry, rows) for entry in entries] for key, entries in whole.items()}
        try:
            return comfy.samplers.CFGGuider.outer_predict_noise(self, x, sigma, options, seed)
        finally:
            self.conds = whole

    @property
    def is_entered(self) -> bool:
        """Whether a run has asked this guider and not left it yet."""
        return self._before is not None

    def load(self, run: Run) -> None:
        """Bring this guider's model to its device, by ComfyUI's own rules, and make it the model that hooks act on."""
        helpers = comfy.sampler_helpers
        loaded = helpers.prepare_sampling(self.model_patcher, run.noise.shape, self.conds, self.model_options)
        self.inner_model, self.conds, self.loaded_models = loaded
        dtype = self.model_patcher.model_dtype()
        comfy.samplers.cast_to_load_options(self.model_options, device=self.model_patcher.load_device, dtype=dtype)
        self.model_patcher.pre_run()

    def leave(self) -> None:
        """End the part of this guest in a run. A guest that was not asked has nothing to end."""
        if self._before is None:
            return
        try:
            self.model_patcher.cleanup()
            comfy.sampler_helpers.cleanup_models(self.conds, getattr(self, "loaded_models", []))
            comfy.samplers.cast_to_load_options(self.model_options, device=self.model_patcher.offload_device)
        finally:
            self.model_options, self.model_patcher.hook_mode = self._before
            self.model_patcher.restore_hook_patches()
            self._before = self._run_options = self.inner_model = None
            self.conds, self.loaded_models = {}, []

    def _enter(self, run: Run) -> None:
        """Prepare as `CFGGuider.sample`, `outer_sample` and `inner_sample` do before they call the sampler."""
        samplers = comfy.samplers
        self._before = self.model_options, self.model_patcher.hook_mode
        self.conds = {key: [entry.copy() for entry in entries] for key, entries in self.original_conds.items()}
        samplers.preprocess_conds_hooks(self.conds)
        self.model_options = comfy.model_patcher.create_model_options_clone(self.model_options)
        if samplers.get_total_hook_groups_in_conds(self.conds) <= 1:
            self.model_patcher.hook_mode = comfy.hooks.EnumHookMode.MinVram
        comfy.sampler_helpers.prepare_model_patcher(self.model_patcher, self.conds, self.model_options)
        samplers.filter_registered_hooks_on_conds(self.conds, self.model_options)
        self.load(run)
        self.inner_model.latent_shapes = run.latent_shapes  # newer versions ask the model for them
        latent = run.latent_image
        if latent is not None and torch.count_nonzero(latent) > 0:
            latent = self.inner_model.process_latent_in(latent)
        known = (latent, run.denoise_mask, run.seed)
        self.conds = samplers.process_conds(self.inner_model, run.noise, self.conds, run.device, *known, latent_shapes=run.latent_shapes)
        self._run_options = comfy.model_patcher.create_model_options_clone(self.model_options)
        self._run_options.setdefault("transformer_options", {})["sample_sigmas"] = run.sigmas


class _Leader(Leader, GuestGuider):
    """One run of the stages. The models of two stages may be two sets of patches on one set of weights, so they take turns."""

    _run: Run | None = None
    _turn = 0

    def inner_sample(self, noise: Tensor, latent_image: Tensor, device: Any, sampler: Any, sigmas: Tensor, denoise_mask: Any,
                     callback: Any, disable_pbar: bool, seed: int | None, latent_shapes: Any = None) -> Tensor:  # fmt: skip
        self._run, self._turn = Run(noise, latent_image, device, denoise_mask, seed, sigmas, latent_shapes), self.own
        try:
            given = (noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
            return super().inner_sample(*given, latent_shapes=latent_shapes)
        finally:
            for stage, guider in enumerate(self.guiders):
                if stage != self.own:
                    guider.leave()

    def outer_predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None) -> Tensor:
        assert self._run is not None  # noqa: S101 - a sampler runs inside inner_sample
        run, options = self._run, model_options or {}

        def ask(stage: int, x: Tensor, sigma: Tensor, rows: Tensor | None) -> Tensor:
            guider = self if stage == self.own else self.guiders[stage]
            if stage > self._turn and self._turn < len(self.frees) and self.frees[self._turn]:
                free_memory_of((self if self._turn == self.own else self.guiders[self._turn]).model_patcher)
            if stage != self._turn and (guider is self or guider.is_entered):  # a guest is loaded when it enters
                guider.load(run)
            self._turn = stage
            if guider is self:
                return self.denoised_of_rows(x, sigma, rows, options, seed)
            return guider.guest_denoised(run, x, sigma, rows, functools.partial(_options_of_sampler, options, self.model_options))

        return self.denoised(x, timestep, ask)


class TimeDecoupledGuider(StagedGuider, GuestGuider):
    """ComfyUI's guider of several stages."""

    leader = _Leader


def free_memory_of(model: Any) -> None:
    """Take a MODEL, and what shares its weights, off its device. ComfyUI loads the model again when it is next needed."""
    management = comfy.model_management
    kept = [loaded for loaded in management.current_loaded_models if loaded.model is None or not model.is_clone(loaded.model)]
    management.free_memory(1e30, model.load_device, keep_loaded=kept)


def _options_of_sampler(given: Mapping[str, Any], leads: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return a guest's `own` options with those that a sampler added to the leader's for this call, as the cfg++ samplers do."""
    options = dict(own)
    for key in _PER_MODEL_LISTS:
        added = given.get(key, [])[len(leads.get(key, [])) :]
        if added:
            options[key] = [*options.get(key, []), *added]
    if given.get("disable_cfg1_optimization") and not leads.get("disable_cfg1_optimization"):
        options["disable_cfg1_optimization"] = True
    return options


def entry_rows(entry: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """Return a processed conditioning entry for the samples `rows` of a batch. A ControlNet's hint must be one for the whole batch."""
    out = dict(entry)
    if isinstance(out.get("mask"), Tensor):
        out["mask"] = repeat_rows(out["mask"], rows)
    out["model_conds"] = {key: _cond_rows(value, rows) for key, value in entry.get("model_conds", {}).items()}
    return out


def _cond_rows(value: Any, rows: Tensor) -> Any:
    held = value.cond
    if isinstance(held, Tensor) and held.ndim:
        return value._copy_with(repeat_rows(held, rows))
    if isinstance(held, list) and all(isinstance(part, Tensor) and part.ndim for part in held):
        return value._copy_with([repeat_rows(part, rows) for part in held])
    return value
