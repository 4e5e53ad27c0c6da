"""Checks that bundles and MODELs fit together, the same in both hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..bundles.format import BundleInfo
from ..errors import BundleError, InputError


def name_of(info: BundleInfo) -> str:
    """Return a bundle's name for messages."""
    return info.path.name if info.path else f"the {info.kind} bundle"


def check_complete(info: BundleInfo) -> None:
    """Raise :class:`BundleError` unless a U-Net's or a VAE's bundle says what its latent space is, and a U-Net's what its schedule is."""
    missing = [key for key in (("latent", "schedule") if info.kind == "unet" else ("latent",)) if getattr(info, key) is None]
    if missing:
        raise BundleError(f"{name_of(info)} lacks {' and '.join(missing)} in its metadata; train it again (`rapiddraw train {info.kind}`)")


def check_fit(unet: BundleInfo, text: BundleInfo, vae: BundleInfo) -> None:
    """Raise :class:`BundleError` where the U-Net attends to tokens of another width than the text encoder makes, or the VAE makes another
    latent space than the U-Net was trained in."""
    wanted, made = unet.config.get("cross_attention_dim"), text.config.get("hidden_size")
    if wanted != made:
        raise BundleError(
            f"{name_of(unet)} attends to tokens of width {wanted}, {name_of(text)} makes tokens of width {made}; "
            "choose the text bundle that was trained with this U-Net"
        )
    differ = [
        f"{name} {_of(vae, name):g} against {_of(unet, name):g}"
        for name in ("channels", "factor", "scale", "shift")
        if abs(_of(vae, name) - _of(unet, name)) > 1e-6
    ]
    if differ:
        raise BundleError(
            f"{name_of(vae)} makes another latent space than {name_of(unet)} was trained in ({', '.join(differ)}); "
            "choose the VAE it was trained with"
        )


def _of(info: BundleInfo, name: str) -> Any:
    return getattr(info.latent, name)


def check_same_latents(structure: Any, texture: Any) -> None:
    """Raise :class:`InputError` unless two MODELs of either host denoise the same latents: channels, factor, scale and shift, and the way
    noise is mixed in. What they predict, and their schedules, may differ."""
    import torch

    from ..diffusion.noise import convention_of

    one, other = structure.get_model_object("latent_format"), texture.get_model_object("latent_format")
    differ = [
        f"{name} {values[0]} against {values[1]}"
        for name, keys in {"channels": ("latent_channels", "channels"), "factor": ("spacial_downscale_ratio", "factor")}.items()
        if None not in (values := [_first(space, keys) for space in (one, other)]) and values[0] != values[1]
    ]
    if not differ:
        count = _first(one, ("latent_channels", "channels"))
        probe = torch.linspace(-1, 1, count).reshape(1, count, *[1] * getattr(one, "latent_dimensions", 2))
        if not torch.allclose(structure.model.process_latent_in(probe), texture.model.process_latent_in(probe), rtol=1e-4, atol=1e-5):
            differ = ["another scale or shift"]
    if differ:
        raise InputError(
            f"the structure and the texture model have different latent spaces ({', '.join(differ)}), so one cannot go on where the "
            "other stops; join models across latent spaces with RapidDrawLatentSpaceBridgeSampler or RapidDrawLatentSpaceBridgeGuider"
        )
    if convention_of(structure.get_model_object("model_sampling")) != convention_of(texture.get_model_object("model_sampling")):
        raise InputError("a flow-matching model cannot go on where another kind of diffusion model stops: they mix in noise differently")


def _first(thing: Any, names: tuple[str, ...]) -> Any:
    return next((getattr(thing, name) for name in names if getattr(thing, name, None) is not None), None)


def check_control_fits(name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Raise :class:`InputError` unless a control adapter's copy of an encoder has the shapes of a MODEL's, as far as both say."""
    differ = [
        f"{key} {mine[key]} against {theirs[key]}"
        for key in keys
        if None not in (mine.get(key), theirs.get(key)) and _plain(mine[key]) != _plain(theirs[key])
    ]
    if differ:
        raise InputError(
            f"{name} was trained for another U-Net than this MODEL ({'; '.join(differ)}); load the adapter that belongs to the model"
        )


def _plain(value: Any) -> Any:
    return [float(part) if isinstance(part, int | float) else part for part in value] if isinstance(value, list | tuple) else value


def without_control(conditioning: Any) -> Any:
    """Return CONDITIONING without its ControlNets, for a model of another architecture: residuals fit one kind of encoder."""
    return [[tokens, {key: value for key, value in details.items() if key != "control"}] for tokens, details in conditioning]
