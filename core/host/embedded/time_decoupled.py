"""Time-decoupled sampling in the embedded host: the guider, a whole run of it, and the composite MODEL, as in ComfyUI's host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...diffusion.time_decoupled import by_sigma, check_history, is_structure, repeat_rows, starting_afresh, switch_sigma, take_rows
from ...errors import InputError
from ..fit import check_same_latents, without_control
from ..run import SamplingRun, Stage
from .guider import CFGGuider, Sampler, guided_denoised, prepare_conds
from .model import Model, copy_options
from .sampling import named_sampler, run_stock


class TimeDecoupledGuider(CFGGuider):
    """GUIDER: the structure model at noise levels of `switch` and above, `texture`'s model below (PanGu-Draw, section 3.1).

    To other nodes it is the structure model's guider. A run that starts below the switch is led by the texture model.
    """

    def __init__(self, structure: Model, texture: CFGGuider, switch: float) -> None:
        super().__init__(structure)
        self.texture, self.switch = texture, switch

    def sample(self, noise: Tensor, latent_image: Tensor, sampler: Sampler, sigmas: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What :meth:`CFGGuider.sample` does."""
        above = sigmas.numel() == 0 or bool(is_structure(sigmas.max(), self.switch))
        lead = _Lead(self, self.texture, self.switch, True) if above else _Lead(self.texture, self, self.switch, False)
        return lead.sample(noise, latent_image, sampler, sigmas, *args, **kwargs)


class _Lead(CFGGuider):
    """One run: the guider that leads it, and the one that it asks for the other side of the switch."""

    def __init__(self, lead: CFGGuider, guest: CFGGuider, switch: float, leads_structure: bool) -> None:
        super().__init__(lead.model_patcher)
        self.model_options, self.original_conds, self.cfg = lead.model_options, lead.original_conds, lead.cfg
        self.guest, self.switch, self.leads_structure = guest, switch, leads_structure
        self._guest_conds: dict[str, list[dict[str, Any]]] | None = None

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None) -> Tensor:
        options = self.model_options if model_options is None else model_options

        def own(x: Tensor, sigma: Tensor, rows: Tensor | None) -> Tensor:
            return guided_denoised(self.inner_model, _of_rows(self.conds, rows), self.cfg, x, sigma, options)

        def other(x: Tensor, sigma: Tensor, rows: Tensor | None) -> Tensor:
            guest, model = self.guest, self.guest.model_patcher.model
            if self._guest_conds is None:
                self._guest_conds = {key: prepare_conds(model, conds, key) for key, conds in guest.original_conds.items()}
            its = copy_options(guest.model_options)
            its.setdefault("transformer_options", {})["sample_sigmas"] = options.get("transformer_options", {}).get("sample_sigmas")
            return guided_denoised(model, _of_rows(self._guest_conds, rows), guest.cfg, x, sigma, its)

        return by_sigma(x, timestep, self.switch, *((own, other) if self.leads_structure else (other, own)))


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
    first, second = stages
    structure, texture, t_struct, cfgs = first.model, second.model, first.t_from, (first.cfg, second.cfg)
    conds, texture_conds = (first.positive, first.negative), (second.positive, second.negative)
    check_same_latents(structure, texture)
    guest = CFGGuider(texture)
    guider = TimeDecoupledGuider(structure, guest, switch_sigma(structure.get_model_object("model_sampling"), t_struct))
    shared = conds if _network(structure) == _network(texture) else tuple(without_control(one) for one in conds)
    own = [given if one is None else one for one, given in zip(texture_conds, shared, strict=True)]
    for one, (positive, negative), cfg in ((guider, conds, cfgs[0]), (guest, own, cfgs[1])):
        one.set_conds(positive, negative)
        one.set_cfg(cfg)
    return guider


def sample(guider: TimeDecoupledGuider, latent: Mapping[str, Any], run: SamplingRun, history: str) -> dict[str, Any]:
    """See :meth:`TimeDecoupledTopic.sample`."""
    sampler = named_sampler(run.sampler_name)
    if check_history(history) == "reset":
        function = starting_afresh(sampler.sampler_function, guider.switch)
        sampler = Sampler(function, sampler.extra_options, sampler.fresh_inpaint_noise)
    model = guider.texture.model_patcher if guider.switch == float("inf") else guider.model_patcher  # whose schedule the run follows
    return run_stock(guider, model, sampler, latent, run)


def join(structure: Model, texture: Model, t_struct: int) -> Model:
    """See :meth:`TimeDecoupledTopic.join`."""
    check_same_latents(structure, texture)
    one, other = structure.model.context_width, texture.model.context_width
    if one != other:
        raise InputError(
            f"the structure model attends to tokens of width {one}, the texture model to {other}: one conditioning cannot serve both. "
            "Use RapidDrawTimeDecoupledGuider or RapidDrawTimeDecoupledSampler, which take a conditioning for each"
        )
    switch = switch_sigma(structure.get_model_object("model_sampling"), t_struct)
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
                c.pop("control", None)  # as in without_control
            its = {**its, "c": c}
            return _run(texture.model.apply_model, texture.model_options.get("model_function_wrapper"), its)

        return by_sigma(call["input"], call["timestep"], switch, of_structure, of_texture)

    model.set_model_unet_function_wrapper(wrapper)
    return model


def _network(model: Model) -> dict[str, Any]:
    """What decides the shapes inside the U-Net."""
    config = model.model.diffusion_model.config
    return {key: value for key, value in config.items() if not key.startswith("_") and key != "sample_size"}


def _run(apply_model: Any, patched: Any, call: dict[str, Any]) -> Tensor:
    if patched is not None:
        return patched(apply_model, call)
    return apply_model(call["input"], call["timestep"], **call["c"])
