"""Control adapters on disk: bundles of kind `control`, checked before a network is built from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundles.format import Bundle, BundleInfo, halved, read_info, save_bundle
from ..bundles.load import load_bundle
from ..errors import BundleError
from ..networks import build_network
from .adapter import ControlAdapter, check_config

_KEYS = ("unet", "conditions", "stem", "features")


def save_control(
    path: str | os.PathLike[str], adapter: ControlAdapter, config: Mapping[str, Any], base: BundleInfo, provenance: Any
) -> Path:
    """Write `adapter`, built from `config`, in half precision. `base` describes the U-Net that it belongs to. Return the file's path."""
    info = BundleInfo("control", dict(config), base.latent, base.schedule, provenance=dict(provenance))
    return save_bundle(path, halved(adapter.state_dict()), info)


def load_control(path: str | os.PathLike[str]) -> Bundle:
    """Return a bundle of kind `control` whose metadata is complete. Raises :class:`BundleError`, which names the file and the fault."""
    check_control(read_info(path, "control"))
    return load_bundle(path, "control")


def check_control(info: BundleInfo) -> None:
    """Raise :class:`BundleError` unless the metadata of a control bundle holds everything that the network is built from."""
    name = info.path.name if info.path else "the control bundle"
    missing = [key for key in _KEYS if key not in info.config] + [key for key in ("latent", "schedule") if getattr(info, key) is None]
    if missing:
        raise BundleError(f"{name} lacks {', '.join(missing)} in its metadata; train it again with `rapiddraw train control`")
    config = info.config
    if not isinstance(config["unet"], dict) or not all(isinstance(config[key], list) for key in _KEYS[1:]):
        raise BundleError(f"{name}: in its config `unet` must be an object, and conditions, stem and features lists")
    widths = config["unet"].get("block_out_channels")
    if not isinstance(widths, list) or not all(isinstance(width, int) and width > 0 for width in widths):
        raise BundleError(f"{name}: its U-Net's block_out_channels must be a list of widths, not {widths!r:.80}")
    try:
        check_config(config["conditions"], config["stem"], config["features"], len(widths))
    except BundleError as error:
        raise BundleError(f"{name}: {error}") from error
    assert info.latent is not None  # noqa: S101 - looked for above
    if 2 ** len(config["stem"]) != info.latent.factor:
        raise BundleError(
            f"{name}: its condition features have {len(config['stem'])} strides of 2, its latents are 1/{info.latent.factor} of a picture"
        )


def build_control(bundle: Bundle) -> ControlAdapter:
    """Return the adapter that a bundle holds, frozen, in fp32. Raises :class:`BundleError` where config and tensors do not fit."""
    name = bundle.info.path.name if bundle.info.path else "the control bundle"
    return build_network(ControlAdapter, bundle.info.config, bundle.tensors, name)
