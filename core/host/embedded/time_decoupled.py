"""Time-decoupled sampling in the embedded host: the guider, a whole run of it, and the composite MODEL, as in ComfyUI's host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...diffusion.noise import NoiseLevel
from ...diffusion.time_decoupled import by_sigma, repeat_rows, take_rows
from ...errors import InputError
from ..fit import check_same_latents
from ..run import SamplingRun, Stage
from ..stages import JoinedSwitch, Leader, StagedGuider, make_staged
from .guider import CFGGuider, guided_denoised, prepare_conds
from .model import Model, copy_options
from .sampling import named_sampler, run_stock, scheduled_sigmas


class _Leader(Leader, CFGGuider):
    """One run of the stages."""

    def __init__(self, guiders: tuple[Any, ...], switches: tuple[float, ...], own: int) -> None:
        super().__init__(guiders, switches, own)
        self._prepared: dict[int, dict[str, list[dict[str, Any]]]] = {}

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None) -> Tensor:
        options = self.model_options if model_options is None else model_options
        sigmas = options.get("transformer_options", {}).get("sample_sigmas")

        def ask(stage: int, x: Tensor, sigma: Tensor, rows: Tensor | None) -> Tensor:
            if stage == self.own:
                return guided_denoised(self.inner_model, _of_rows(self.conds, rows), self.cfg, x, sigma, options)
            guest, model = self.guiders[stage], self.guiders[stage].model_patcher.model
            if stage not in self._prepared:
                self._prepared[stage] = {key: prepare_conds(model, conds, key) for key, conds in guest.original_conds.items()}
            its = copy_options(guest.model_options)
            its.setdefault("transformer_options", {})["sample_sigmas"] = sigmas
            return guided_denoised(model, _of_rows(self._prepared[stage], rows), guest.cfg, x, sigma, its)

        return self.denoised(x, timestep, ask)


class TimeDecoupledGuider(StagedGuider, CFGGuider):
    """The embedded host's guider of several stages."""

    leader = _Leader


def _of_rows(conds: dict[str, list[dict[str, Any]]], rows: Tensor | None) -> dict[str, list[dict[str, Any]]]:
    if rows is None:
        return conds
    return {key: [_entry_rows(entry, rows) for entry in entries] for key, entries in conds.items()}


def _entry_rows(entry: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    control = entry.get("control")
    cut = {} if control is None else {"control": control.of_rows(rows)}
    return {**entry, **cut, "cross_attn": repeat_rows(entry["cross_attn"], rows)}


def make_guider(stages: Sequence[Stage]) -> TimeDecoupledGuider:
    """See :meth:`TimeDecoupledTopic.make_guider`."""
    return make_staged(stages, TimeDecoupledGuider, CFGGuider, _network)


def sample(guider: TimeDecoupledGuider, latent: Mapping[str, Any], run: SamplingRun, history: str) -> dict[str, Any]:
    """See :meth:`TimeDecoupledTopic.sample`."""
    whole = scheduled_sigmas(guider.scheduling_model(), run.scheduler, run.steps, run.denoise)
    return run_stock(guider.for_run(whole, history), named_sampler(run.sampler_name), latent, run, whole)


def join(structure: Model, texture: Model, t_struct: int | NoiseLevel) -> Model:
    """See :meth:`TimeDecoupledTopic.join`."""
    check_same_latents(structure, texture)
    one, other = structure.model.context_width, texture.model.context_width
    if one != other:
        raise InputError(
            f"the structure model attends to tokens of width {one}, the texture model to {other}: one conditioning cannot serve both. "
            "Use RapidDrawTimeDecoupledGuider or RapidDrawTimeDecoupledSampler, which take a conditioning for each"
        )
    level = t_struct if isinstance(t_struct, NoiseLevel) else NoiseLevel(t_struct)
    switch = JoinedSwitch(level, structure.get_model_object("model_sampling"))
    patched = structure.model_options.get("model_function_wrapper")
    model = structure.clone()
    same_network = _network(structure) == _network(texture)

    def wrapper(apply_model: Any, call: dict[str, Any]) -> Tensor:
        def part(x: Tensor, sigma: Tensor, rows: Tensor | None) -> dict[str, Any]:
            return call if rows is None else {**call, "input": x, "timestep": sigma, "c": take_rows(call["c"], rows, len(call["input"]))}

        def of_structure(*given: Any) -> Tensor:
            return _run(apply_model, patched, part(*given))

        def of_texture(*given: Any) -> Tensor:
            its = part(*given)
            options = {**its["c"].get("transformer_options", {}), **texture.model_options.get("transformer_options", {})}
            c = {**its["c"], "transformer_options": options}
            if not same_network:
                c.pop("control", None)  # residuals fit the encoder that they were made for
            its = {**its, "c": c}
            return _run(texture.model.apply_model, texture.model_options.get("model_function_wrapper"), its)

        now = switch.on(call["c"].get("transformer_options", {}).get("sample_sigmas"))
        return by_sigma(call["input"], call["timestep"], [now], [of_structure, of_texture])

    model.set_model_unet_function_wrapper(wrapper)
    return model


def _network(model: Model) -> dict[str, Any]:
    """Return the config's fields that decide the shapes inside the U-Net."""
    config = model.model.diffusion_model.config
    return {key: value for key, value in config.items() if not key.startswith("_") and key != "sample_size"}


def _run(apply_model: Any, patched: Any, call: dict[str, Any]) -> Tensor:
    if patched is not None:
        return patched(apply_model, call)
    return apply_model(call["input"], call["timestep"], **call["c"])
