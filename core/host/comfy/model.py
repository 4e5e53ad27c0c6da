"""MODELs of ComfyUI, read from a U-Net bundle and written as one.

Our own MODELs go back to diffusers' names and their own config, and load in both hosts. A user's checkpoint keeps ComfyUI's names and
records its family (:mod:`.family`); its bundle loads in ComfyUI only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.utils
import torch

from ...bundles.format import Bundle, BundleInfo, save_bundle
from ...bundles.load import load_bundle
from ...data.buckets import INDEX_FEATURES
from ...diffusion.flow import noise_schedule
from ...errors import BundleError, InputError
from ...lowrank.factorize import open_factors
from ...slim.changes import changes_of, open_changes, read_changes
from ..fit import check_complete, name_of
from .family import KEY as _KEY
from .family import describe, family_config, stored_tensors
from .lowrank import wrap
from .surgery import is_unet, rebuild
from .unet import RapidDrawModel, diffusers_config, model_config, unet_arguments, unet_weights
from .weights import cast_loaded, choose_dtype, with_factors, with_inner

_TOKEN_WIDTHS = ("context_dim", "context_in_dim", "in_features", "cond_seq_dim", "cap_feat_dim", "joint_attention_dim", "text_feat_dim",
                 "text_dim", "text_in_dim", "text_embed_dim", "text_states_dim", "in_text_dim", "crossattn_emb_channels", "c_clip_text",
                 "caption_channels")  # fmt: skip
"""What the families call the width of the tokens that they attend to."""
_NEEDED = {
    "HunyuanDiT": ("conditioning_mt5xl", "attention_mask", "attention_mask_mt5xl"),
    "HiDream": ("conditioning_llama3",),
    "LTXV": ("attention_mask",),
    "LTXAV": ("attention_mask",),
    "Omnigen2": ("attention_mask",),
}
"""What the networks of some families cannot do without, by ComfyUI's class."""
_POOLED_WIDTHS = ("adm_in_channels", "vec_in_dim", "text_emb_dim", "in_text_dim2", "c_clip_text_pooled")


def load(path: Path) -> Any:
    """See :meth:`ModelTopic.load`."""
    return load_model(load_bundle(path, "unet"))


def load_model(bundle: Bundle) -> Any:
    """Return a MODEL (a ModelPatcher) from a bundle of kind `unet`. Raises :class:`BundleError` where it cannot be one."""
    info = bundle.info
    if _KEY in info.extra:
        return _load_foreign(bundle)
    check_complete(info)
    assert info.latent is not None  # noqa: S101 - check_complete has seen to it
    try:
        noise_schedule(info.schedule)  # refuses what no schedule can be
        arguments = unet_arguments(info)
    except (InputError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise BundleError(f"{name_of(info)}: its config cannot be understood ({error})") from error
    if {arguments["in_channels"], arguments["out_channels"]} != {info.latent.channels}:
        raise BundleError(
            f"{name_of(info)} claims {info.latent.channels} latent channels, but its network takes {arguments['in_channels']}"
        )
    weights = unet_weights(info, bundle.tensors, arguments)
    config = model_config(info, arguments)
    device, offload = choose_dtype(config, weights)
    model = config.get_model(weights, "").to(offload)
    open_changes(model.diffusion_model, read_changes(info.extra, name_of(info)), name_of(info))
    open_factors(model.diffusion_model, weights, name_of(info))
    patcher = wrap(model, device, offload)
    model.load_model_weights(dict(weights), "")
    cast_loaded(model.diffusion_model)
    return patcher


def save(model: Any, path: Path, provenance: Mapping[str, Any]) -> Path:
    """See :meth:`ModelTopic.save`. Raises :class:`InputError` for a family whose arguments cannot be written down."""
    inner = rebuild(model, _nothing).model
    config = inner.model_config
    slim = changes_of(inner.diffusion_model).stored()
    ours = getattr(type(config), "bundle", None)  # an instance would make up an answer
    if ours is not None:
        halves = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in _diffusers_named(inner, "class").items()}
        info = BundleInfo("unet", ours.config, ours.latent, ours.schedule, provenance=dict(provenance), extra=slim)
        return save_bundle(path, halves, info)
    info = describe(inner)
    info = replace(info, provenance=dict(provenance), extra=info.extra | slim)
    return save_bundle(path, stored_tensors(inner.diffusion_model), info)


def export(model: Any) -> Bundle:
    """See :meth:`ModelTopic.export`."""
    if not is_unet(model):
        raise InputError(f"a U-Net such as those of SD 1.5 and SDXL is needed here; this model is a {type(model.model).__name__}")
    inner = rebuild(model, _nothing).model
    slim = changes_of(inner.diffusion_model).stored()
    ours = getattr(type(inner.model_config), "bundle", None)
    if ours is not None:
        return Bundle(BundleInfo("unet", ours.config, ours.latent, ours.schedule, extra=slim), _diffusers_named(inner, "class"))
    told = describe(inner)
    return Bundle(
        BundleInfo("unet", diffusers_config(inner.model_config.unet_config), told.latent, told.schedule, extra=slim),
        _diffusers_named(inner, "add"),
    )


def _diffusers_named(inner: Any, vector: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a U-Net by diffusers' names, which has two for the network of `y`: `class_embedding` (vector `class`), which
    our U-Nets have, and `add_embedding` (`add`). Raises :class:`InputError` for a weight without a name."""
    tensors = inner.diffusion_model.state_dict()
    other = "add_embedding." if vector == "class" else "class_embedding."
    known = comfy.utils.unet_to_diffusers(inner.model_config.unet_config).items()
    names = with_factors({ldm: diffusers for diffusers, ldm in known if not diffusers.startswith(other)}, tensors)
    if changes_of(inner.diffusion_model).stored():
        names = with_inner(names, tensors)
    if nameless := sorted(set(tensors) - set(names)):
        raise InputError(f"the weight {nameless[0]} has no name in diffusers' layout; this model cannot be saved as a bundle")
    return {names[key]: tensor for key, tensor in tensors.items()}


def _load_foreign(bundle: Bundle) -> Any:
    """Return a MODEL from what :func:`save` wrote of a user's checkpoint. Raises :class:`BundleError` naming what does not fit."""
    info = bundle.info
    config = family_config(info)
    device, offload = choose_dtype(config, bundle.tensors)
    try:
        inner = config.get_model({}, "").to(offload)
        open_changes(inner.diffusion_model, read_changes(info.extra, name_of(info)), name_of(info))
        open_factors(inner.diffusion_model, bundle.tensors, name_of(info))
        inner.diffusion_model.load_state_dict(bundle.tensors)
        cast_loaded(inner.diffusion_model)
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise BundleError(f"{name_of(info)}: its config and its tensors do not make a {type(config).__name__} ({error!s:.300})") from error
    return wrap(inner, device, offload)


def attended_width(model: Any) -> int | None:
    """See :meth:`ModelTopic.attended_width`."""
    config = getattr(model.model.model_config, "unet_config", {})
    if isinstance(config.get("txtdim"), int) and isinstance(config.get("txtlayers"), int):  # Krea 2 reads several layers side by side
        return int(config["txtdim"] * config["txtlayers"])
    return _whole(config, _TOKEN_WIDTHS)


def pooled_width(model: Any) -> int:
    """See :meth:`ModelTopic.pooled_width`."""
    inner, config = model.model, getattr(model.model.model_config, "unet_config", {})
    beside = 0  # features of other numbers that go with the pooled state
    if isinstance(inner, RapidDrawModel):
        beside = INDEX_FEATURES
    elif isinstance(inner, comfy.model_base.SDXLRefiner | comfy.model_base.SDXL):
        beside = (5 if isinstance(inner, comfy.model_base.SDXLRefiner) else 6) * 256
    width = _whole(config, _POOLED_WIDTHS)
    return 0 if width is None else max(0, width - beside)


def needed_details(model: Any) -> tuple[str, ...]:
    """See :meth:`ModelTopic.needed_details`."""
    return _NEEDED.get(type(model.model).__name__, ())


def _whole(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first of a network's settings of these names that is a whole number."""
    inside = config.get("context_embedder_config")  # SD 3's
    found = {**config, **(inside.get("params", {}) if isinstance(inside, Mapping) else {})}
    return next((found[name] for name in names if isinstance(found.get(name), int)), None)


def takes_resolution_index(model: Any) -> bool:
    """See :meth:`ModelTopic.takes_resolution_index`."""
    return isinstance(model.model, RapidDrawModel) and bool(model.model.adm_channels)


def _nothing(_: Any) -> None:
    return None
