"""The resolution bridge of Coop-Diffusion (Lu et al. 2023, PanGu-Draw, section 4.2 and Alg. 1, sub-module 2).

A low-resolution walk stops at noise level s = sigma(T_low). What its model takes the picture to be there is decoded, resampled *in image
space* and encoded for the high-resolution model, which goes on from `x = E(Up(D'(D_low(x', s)))) + s * noise` with noise of its own.
Enlarging the noisy latent instead would correlate the noise of neighbouring cells and take some of it away (bilinear x2: lag-1
correlation 0.75, standard deviation 0.64), which no model was trained for; reducing it halves the noise.

The paper leaves `T_low` and the kernel open: 400 and bicubic are our defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from ..progress import Progress, raise_if_cancelled
from ..upscale.resize import MAX_PIXELS, MAX_SIDE, resize

T_LOW = 400
UPSCALE_METHODS = ("bicubic", "bilinear", "lanczos", "nearest", "area")
_LIKE_THE_TOP = 1e-5  # relative: at and above sigma_max ComfyUI scales noise as for a walk from its very beginning


def target_pixels(width: int, height: int, cell: int, scale_by: float = 2.0, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """(width, height) in pixels that `size`, or else `scale_by` times the given one, comes to in whole latent cells of `cell` pixels.

    `size` may leave one side 0: it follows from the other. `scale_by` lies in (0, 16]. Raises :class:`InputError` for anything else,
    or for a picture that would not be sensible to allocate.
    """
    if size is not None and (min(size) < 0 or max(size) == 0):
        raise InputError(
            f"a size of {size[0]} x {size[1]} pixels was given; give at least one side above 0, or leave both at 0 for scale_by"
        )
    if size is None and not (math.isfinite(scale_by) and 0 < scale_by <= 16):
        raise InputError(f"scale_by is {scale_by}; it must be above 0 and at most 16")
    if size is None:
        wanted = width * scale_by, height * scale_by
    else:
        wanted = size[0] or width * size[1] / height, size[1] or height * size[0] / width
    whole = tuple(max(1, round(side / cell)) * cell for side in wanted)
    if max(whole) > MAX_SIDE or whole[0] * whole[1] > MAX_PIXELS:
        raise InputError(f"the bridged picture would be {whole[0]} x {whole[1]} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all")
    return whole[0], whole[1]


def resample(image: Tensor, size: tuple[int, int], method: str = "bicubic") -> Tensor:
    """IMAGE (B, H, W, 3) -> (B, size[1], size[0], 3), clamped to [0, 1]; what makes it smaller is antialiased, except `nearest`.

    The same size comes back untouched. Raises :class:`InputError` for an unknown `method`.
    """
    if method not in UPSCALE_METHODS:
        raise InputError(f"unknown upscale method {method!r}: the known ones are {', '.join(UPSCALE_METHODS)}")
    if (image.shape[2], image.shape[1]) == tuple(size):
        return image
    planes, (width, height) = image.movedim(-1, 1).float(), size
    if method == "lanczos":
        out = resize(planes, size).to(planes)
    elif method in ("nearest", "area"):
        out = functional.interpolate(planes, size=(height, width), mode="nearest-exact" if method == "nearest" else method)
    else:
        out = functional.interpolate(planes, size=(height, width), mode=method, antialias=True)
    return out.clamp(0, 1).movedim(1, -1)


def enlarge(image: Tensor, size: tuple[int, int], method: str = "bicubic", upscaler: Any = None, tile: int = 0) -> Tensor:
    """:func:`resample`, by an UPSCALE_MODEL where one is given and the picture grows."""
    if upscaler is None or size[0] * size[1] <= image.shape[1] * image.shape[2]:
        return resample(image, size, method)
    from ..host import current
    from ..upscale.tiles import upscale

    side = tile or 512
    device = current().upscale.device_for(upscaler, side)
    return upscale(upscaler, image, tile=side, overlap=min(32, side // 2), size=size, device=device)


def noise_level(sigmas: Tensor, first: bool = False) -> float:
    """The last (or first) entry of SIGMAS. Raises :class:`InputError` where there is none."""
    if sigmas.ndim != 1 or len(sigmas) == 0:
        raise InputError(f"sigmas of shape {tuple(sigmas.shape)} were given; a walk has at least one noise level. Check where it was split")
    return float(sigmas[0 if first else -1])


def predict_clean(
    model: Any, positive: Any, negative: Any, cfg: float, latent: Mapping[str, Any], sigma: float, bar: Progress | None = None
) -> Tensor:
    """What `model` takes a noisy LATENT at noise level `sigma` to be: unscaled (B, C, h, w), by one evaluation under guidance.

    At sigma 0 the latent is the picture already, and no model is asked. A mask does not matter here: all of the picture is predicted.
    """
    from ..host import current

    if sigma == 0:
        return latent["samples"]
    host = current()
    plain = {key: value for key, value in latent.items() if key != "noise_mask"}
    walk = torch.tensor([sigma, 0.0])
    return host.sampling.sample_custom(
        host.sampling.make_guider(model, positive, negative, cfg), host.sampling.make_sampler(one_evaluation, {}), walk, plain, None, bar
    )["samples"]


def one_evaluation(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None) -> Tensor:
    """A sampler that asks once and believes it: `denoised` at sigmas[0]."""
    raise_if_cancelled()
    denoised = model(x, sigmas[0] * x.new_ones([x.shape[0]]), **(extra_args or {}))
    if callback is not None:
        callback({"x": x, "i": 0, "sigma": sigmas[0], "sigma_hat": sigmas[0], "denoised": denoised})
    return denoised


def bridge_resolution(
    model: Any,
    positive: Any,
    negative: Any,
    cfg: float,
    vae_low: Any,
    latent: Mapping[str, Any],
    sigma: float,
    vae_high: Any,
    *,
    scale_by: float = 2.0,
    size: tuple[int, int] | None = None,
    method: str = "bicubic",
    upscaler: Any = None,
    extra_eval: bool = True,
    tile: int = 0,
    bar: Progress | None = None,
) -> tuple[dict[str, Any], Tensor]:
    """(clean high-resolution LATENT, the IMAGE it was encoded from): lines 4 to 6 of Alg. 1. Adding noise at `sigma` is the next sampler's.

    `latent` is the low-resolution walk's, noisy at `sigma` (the last entry of its sigmas); with `extra_eval=False` it is taken as a clean
    estimate already, such as the `denoised_output` of the stock sampler, which belongs to the step before. Works in both directions:
    `scale_by` below 1 goes from high to low resolution. `tile` > 0 decodes and encodes in tiles of so many pixels; 0 does so only where
    memory runs out. A mask and batch indices are kept. Raises :class:`InputError` for numbers out of range and for a walk that has not
    begun (`sigma` at the model's largest: there is nothing to bridge yet).
    """
    from ..host import current

    host = current()
    sigma = float(sigma)
    if not math.isfinite(sigma) or sigma < 0:
        raise InputError(f"the noise level at the bridge is {sigma}; it must be a finite number of at least 0")
    if extra_eval and sigma >= float(model.get_model_object("model_sampling").sigma_max) * (1 - _LIKE_THE_TOP):
        raise InputError(
            f"the low-resolution walk stops at sigma {sigma:.4g}, where it begins: there is nothing to bridge yet. Split the sigmas later"
        )
    clean = predict_clean(model, positive, negative, cfg, latent, sigma, bar) if extra_eval else latent["samples"]
    image = host.vae.decode(vae_low, clean, tile)
    wanted = target_pixels(image.shape[2], image.shape[1], vae_high.spacial_compression_encode(), scale_by, size)
    image = enlarge(image, wanted, method, upscaler, tile)
    kept = {key: value for key, value in latent.items() if key in ("noise_mask", "batch_index")}
    return {**kept, "samples": host.vae.encode(vae_high, image, tile)}, image


def split_at(sigmas: Tensor, switch: float) -> tuple[Tensor, Tensor]:
    """(high, low) parts of a walk, cut at its first level at or below `switch`; both hold that level. No level is added."""
    below = (sigmas <= switch * (1 + 1e-6)).nonzero()
    cut = int(below[0]) if len(below) else len(sigmas) - 1
    return sigmas[: cut + 1], sigmas[cut:]


def sample_across(
    models: tuple[Any, Any],
    positives: tuple[Any, Any],
    negatives: tuple[Any, Any],
    cfgs: tuple[float, float],
    vaes: tuple[Any, Any],
    latent: Mapping[str, Any],
    *,
    seed: int,
    steps: int,
    sampler_name: str,
    scheduler: str,
    t_low: float = T_LOW,
    **bridge: Any,
) -> tuple[dict[str, Any], Tensor]:
    """All of sub-module 2 in one call: (high-resolution LATENT, the bridged IMAGE). Each pair is (low, high).

    `steps` are those of the whole walk, on the low-resolution model's schedule; the high-resolution model takes the part from timestep
    `t_low` (0 to 999, of that schedule) down. `seed` draws the first noise, `seed + 1` the second: the same would put the noise back that
    the first walk took away. At `t_low` 0 the first model draws alone and its picture is only resampled. `bridge` goes to
    :func:`bridge_resolution`.
    """
    from ..host import current

    host = current()
    schedule = models[0].get_model_object("model_sampling")
    if not math.isfinite(t_low) or not 0 <= t_low <= 999:
        raise InputError(f"t_low is {t_low}; it is a timestep from 0 to 999 (default {T_LOW})")
    sigmas = host.sampling.calculate_sigmas(models[0], scheduler, steps)
    switch = float(schedule.sigma(torch.tensor(float(t_low)))) if t_low > 0 else 0.0
    high, low = split_at(sigmas, switch)
    if len(high) < 2:
        raise InputError(f"t_low {t_low} leaves the low-resolution model no step of {steps}; choose a smaller t_low or more steps")
    sampler = host.sampling.named_sampler(sampler_name)
    sigma = float(high[-1])
    with Progress(len(high) - 1 + (sigma > 0) + len(low) - 1, "bridging resolutions") as bar:
        first = host.sampling.sample_custom(
            host.sampling.make_guider(models[0], positives[0], negatives[0], cfgs[0]), sampler, high, latent, seed, bar
        )
        larger, image = bridge_resolution(models[0], positives[0], negatives[0], cfgs[0], vaes[0], first, sigma, vaes[1], bar=bar, **bridge)
        if len(low) > 1:
            noise = (int(seed) + 1) % 2**64
            larger = host.sampling.sample_custom(
                host.sampling.make_guider(models[1], positives[1], negatives[1], cfgs[1]), sampler, low, larger, noise, bar
            )
    return larger, image
