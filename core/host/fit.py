"""Whether three bundles belong together, told from their headers: the same rule in both hosts."""

from __future__ import annotations

from typing import Any

from ..bundle import BundleInfo
from ..errors import BundleError


def name_of(info: BundleInfo) -> str:
    """What to call a bundle in a message."""
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
