"""Time-decoupled sampling in ComfyUI: the guider, a whole run of it, and the composite MODEL. See :mod:`..diffusion.time_decoupled`."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management
import comfy.patcher_extension
from torch import Tensor

from ...diffusion.noise import NoiseLevel
from ...diffusion.time_decoupled import by_sigma, take_rows
from ...errors import InputError
from ..fit import check_same_latents
from ..run import SamplingRun, Stage
from ..stages import JoinedSwitch, make_staged
from .guiders import GuestGuider, TimeDecoupledGuider
from .sampling import named_sampler, run_sigmas, run_stock

_OF_THE_CALL = ("cond_or_uncond", "uuids", "sigmas", "sample_sigmas")  # transformer options that belong to a call, not to a model


def make_guider(stages: Sequence[Stage]) -> TimeDecoupledGuider:
    """See :meth:`TimeDecoupledTopic.make_guider`."""
    return make_staged(stages, TimeDecoupledGuider, GuestGuider, _network)


def sample(guider: TimeDecoupledGuider, latent: Mapping[str, Any], run: SamplingRun, history: str) -> dict[str, Any]:
    """See :meth:`TimeDecoupledTopic.sample`."""
    whole = run_sigmas(guider.scheduling_model(), run)
    return run_stock(guider.for_run(whole, history), named_sampler(run.sampler_name), latent, run, whole)


def join(structure: Any, texture: Any, t_struct: int | NoiseLevel) -> Any:
    """See :meth:`TimeDecoupledTopic.join`.

    The texture model is loaded when a run first goes below the switch, as in the guider, and not up front: two models that are patches
    of one set of weights cannot be loaded at once, and what is not reached need not be loaded.
    """
    check_same_latents(structure, texture)
    _check_same_conditioning(structure, texture)
    level = t_struct if isinstance(t_struct, NoiseLevel) else NoiseLevel(t_struct)
    switch = JoinedSwitch(level, structure.get_model_object("model_sampling"))
    model = structure.clone()
    patched = structure.model_options.get("model_function_wrapper")
    turns = _Turns()
    same_network = _network(structure) == _network(texture)

    def wrapper(apply_model: Any, call: dict[str, Any]) -> Tensor:
        x, sigma, batch = call["input"], call["timestep"], call["input"].shape[0]

        def of_structure(x: Tensor, sigma: Tensor, rows: Tensor | None) -> Tensor:
            running = getattr(getattr(apply_model, "__self__", None), "current_patcher", None)  # this MODEL, or a later clone of it
            turns.take("structure", running, x, call["c"])
            return _run(apply_model, patched, _part(call, x, sigma, rows, batch))

        def of_texture(x: Tensor, sigma: Tensor, rows: Tensor | None) -> Tensor:
            turns.take("texture", texture, x, call["c"])
            part = _part(call, x, sigma, rows, batch)
            c = {**part["c"], "transformer_options": _own_options(texture, part["c"].get("transformer_options", {}))}
            if not same_network:
                c.pop("control", None)  # residuals fit the encoder that they were made for
            return _run(texture.model.apply_model, texture.model_options.get("model_function_wrapper"), {**part, "c": c})

        now = switch.on(call["c"].get("transformer_options", {}).get("sample_sigmas"))
        return by_sigma(x, sigma, [now], [of_structure, of_texture])

    model.set_model_unet_function_wrapper(wrapper)
    return model


class _Turns:
    """The turns of a joined model's two models in a sampling run: which is loaded. A new run begins with the structure model."""

    def __init__(self) -> None:
        self._last = "structure"
        self._sigmas: Any = lambda: None

    def take(self, role: str, model: Any, x: Tensor, c: Mapping[str, Any]) -> None:
        """Load `model`, which plays `role`, unless it had the last turn."""
        sigmas = c.get("transformer_options", {}).get("sample_sigmas")
        if sigmas is None or self._sigmas() is not sigmas:
            self._sigmas, self._last = (lambda: None) if sigmas is None else weakref.ref(sigmas), "structure"
        if role != self._last and model is not None:
            comfy.model_management.load_models_gpu([model], memory_required=model.model.memory_required(list(x.shape)))
            self._last = role


def _run(apply_model: Any, patched: Any, call: dict[str, Any]) -> Tensor:
    if patched is not None:
        return patched(apply_model, call)
    return apply_model(call["input"], call["timestep"], **call["c"])


def _part(call: dict[str, Any], x: Tensor, sigma: Tensor, rows: Tensor | None, batch: int) -> dict[str, Any]:
    if rows is None:
        return call
    return {**call, "input": x, "timestep": sigma, "c": take_rows(call["c"], rows, batch)}


def _own_options(texture: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the texture model's own transformer options (its patches, attention, wrappers) with the given ones that belong to the call."""
    own = comfy.patcher_extension.copy_nested_dicts(texture.model_options.get("transformer_options", {}))
    for kind, held in (("wrappers", texture.wrappers), ("callbacks", texture.callbacks)):
        comfy.patcher_extension.merge_nested_dicts(own.setdefault(kind, {}), held, copy_dict1=False)
    return {**own, **{key: given[key] for key in _OF_THE_CALL if key in given}}


def _network(model: Any) -> Any:
    return getattr(model.model.model_config, "unet_config", None)


_INPUT_KEYS = (
    "context_dim", "adm_in_channels", "in_channels", "in_dim", "context_in_dim", "vec_in_dim", "text_dim", "cap_feat_dim",
    "joint_attention_dim", "cross_attention_dim", "crossattn_emb_channels", "caption_channels", "text_embedding_dim",
    "context_embedder_config", "cond_seq_dim", "clip_text_dim", "text_emb_dim", "model_type",
)  # fmt: skip
"""The entries of a network's config on which its conditionings depend, over all families of ComfyUI."""


def _check_same_conditioning(structure: Any, texture: Any) -> None:
    """Raise :class:`InputError` where the texture model cannot use the conditionings that were prepared for the structure model."""
    one, other = (_network(model) or {} for model in (structure, texture))
    differ = [f"{key} {one.get(key)} against {other.get(key)}" for key in _INPUT_KEYS if one.get(key) != other.get(key)]
    kinds = [type(model.model).extra_conds for model in (structure, texture)]
    if kinds[0] is not kinds[1]:
        differ.append(f"the conditioning of {type(structure.model).__name__} against that of {type(texture.model).__name__}")
    keys = [tuple(getattr(model.model, "concat_keys", ())) for model in (structure, texture)]
    if keys[0] != keys[1]:
        differ.append(f"further inputs {', '.join(keys[0]) or 'none'} against {', '.join(keys[1]) or 'none'}")
    if differ:
        raise InputError(
            f"one conditioning cannot serve both the structure and the texture model ({'; '.join(differ)}). "
            "Use RapidDrawTimeDecoupledGuider or RapidDrawTimeDecoupledSampler, which take a conditioning for each"
        )
