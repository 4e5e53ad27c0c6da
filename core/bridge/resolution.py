"""The resolution bridge of Coop-Diffusion (Lu et al. 2023, PanGu-Draw, section 4.2 and algorithm 1, sub-module 2).

The low-resolution sampling run stops at noise level s = sigma(T_low). Its model's estimate of the clean picture at s is decoded, resampled
*in image space* and encoded for the high-resolution model, which goes on from `x = E(Up(D'(D_low(x', s)))) + s * noise`, with new noise.
Enlarging the noisy latent instead would correlate the noise of neighbouring cells and weaken it (bilinear x2: correlation of neighbours
0.75, standard deviation 0.64). No model was trained for such noise. Reducing a noisy latent halves its noise.

The second model may have another noise convention (:mod:`.convention`): a VE model may hand over to a flow model and the other way round.

The paper leaves `T_low` and the kernel open. 400 and bicubic are the defaults here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..diffusion.noise import NoiseLevel
from ..errors import InputError
from ..host import SamplingRun, current
from ..progress import Progress, raise_if_cancelled
from .convention import HandOver
from .frames import as_image, check_plain, decode_frames, encode_frames, kept_for
from .resample import Resampling
from .side import Side

T_LOW = 400
_LIKE_THE_TOP = 1e-5  # relative: from sigma_max on, ComfyUI scales noise as at the start of a full sampling run
_X2 = Resampling()


def noise_level(sigmas: Tensor, first: bool = False) -> float:
    """Return the last (or first) entry of SIGMAS. Raises :class:`InputError` where there is none."""
    if sigmas.ndim != 1 or len(sigmas) == 0:
        raise InputError(
            f"sigmas of shape {tuple(sigmas.shape)} were given; a sampling run has at least one noise level. Check where they were split"
        )
    return float(sigmas[0 if first else -1])


def predict_clean(side: Side, latent: Mapping[str, Any], sigma: float, bar: Progress | None = None) -> Tensor:
    """Return the model's estimate of the clean LATENT, unscaled, by one guided evaluation at noise level `sigma`.

    At sigma 0 the latent is clean already, and no model is asked. A mask is ignored: the whole picture is predicted.
    """
    if sigma == 0:
        return latent["samples"]
    plain = {key: value for key, value in latent.items() if key != "noise_mask"}
    return side.sample(current().sampling.make_sampler(one_evaluation, {}), torch.tensor([sigma, 0.0]), plain, None, bar)["samples"]


def one_evaluation(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None) -> Tensor:
    """Return `denoised` at sigmas[0]: a sampler of a single evaluation."""
    raise_if_cancelled()
    denoised = model(x, sigmas[0] * x.new_ones([x.shape[0]]), **(extra_args or {}))
    if callback is not None:
        callback({"x": x, "i": 0, "sigma": sigmas[0], "sigma_hat": sigmas[0], "denoised": denoised})
    return denoised


def bridge_resolution(
    side: Side,
    vae_high: Any,
    latent: Mapping[str, Any],
    sigma: float,
    resampling: Resampling = _X2,
    extra_eval: bool = True,
    bar: Progress | None = None,
) -> tuple[dict[str, Any], Tensor]:
    """Return (the clean LATENT at the new resolution, the IMAGE that it was encoded from): lines 4 to 6 of algorithm 1.

    `side` is the model that drew `latent` so far, noisy at `sigma` (the last entry of its sigmas); `vae_high` encodes for the model that
    goes on. The next sampler adds noise at `sigma`. With `extra_eval=False` the latent is taken as a clean estimate already, such as the
    stock sampler's `denoised_output`, which is one step older. Works in both directions: a `scale_by` below 1 goes from high to low
    resolution. A mask and batch indices are kept. Raises :class:`InputError` for numbers out of range, and for a sampling run that has not
    begun (`sigma` is the model's largest: there is nothing to bridge yet).
    """
    check_plain(latent["samples"])
    sigma = float(sigma)
    if not math.isfinite(sigma) or sigma < 0:
        raise InputError(f"the noise level at the bridge is {sigma}; it must be a finite number of at least 0")
    if extra_eval and sigma >= float(side.model.get_model_object("model_sampling").sigma_max) * (1 - _LIKE_THE_TOP):
        raise InputError(
            f"the low-resolution sampling run stops at sigma {sigma:.4g}, where it begins: there is nothing to bridge yet. "
            "Split the sigmas later"
        )
    clean = predict_clean(side, latent, sigma, bar) if extra_eval else latent["samples"]
    frames = resampling.apply(decode_frames(side.vae, clean, resampling.tile), vae_high.spacial_compression_encode())
    samples = encode_frames(vae_high, frames, resampling.tile)
    return {**kept_for(latent, samples), "samples": samples}, as_image(frames)


def split_at(sigmas: Tensor, switch: float) -> tuple[Tensor, Tensor]:
    """Return (high, low), `sigmas` cut at the first level at or below `switch`. Both parts hold that level; no level is added."""
    below = (sigmas <= switch * (1 + 1e-6)).nonzero()
    cut = int(below[0]) if len(below) else len(sigmas) - 1
    return sigmas[: cut + 1], sigmas[cut:]


def sample_across(
    low: Side, high: Side, latent: Mapping[str, Any], run: SamplingRun, t_low: float | NoiseLevel = T_LOW, resampling: Resampling = _X2
) -> tuple[dict[str, Any], Tensor]:
    """Return (the high-resolution LATENT, the bridged IMAGE): all of sub-module 2 in one call.

    `run` is the whole sampling run, on the low-resolution model's schedule. The high-resolution model takes the part from `t_low` down, a
    timestep (0 to 999, of that schedule) or a noise level in another unit; where it has another noise convention, at levels of the same
    signal-to-noise ratio. Its noise is drawn from `run.seed + 1`: the same seed would put back the noise that the first part removed. At
    `t_low` 0 the first model draws alone and its picture is only resampled. Raises :class:`InputError` for a `t_low` out of range, and for
    one that leaves the low-resolution model no step.
    """
    host = current()
    check_plain(latent["samples"])
    if not isinstance(t_low, NoiseLevel):
        if not math.isfinite(t_low) or not 0 <= t_low <= 999:
            raise InputError(f"t_low is {t_low}; it is a timestep from 0 to 999 (default {T_LOW})")
        t_low = NoiseLevel(t_low)
    sigmas = host.sampling.calculate_sigmas(low.model, run.scheduler, run.steps)
    schedules = low.model.get_model_object("model_sampling"), high.model.get_model_object("model_sampling")
    above, below = split_at(sigmas, t_low.on(schedules[0], sigmas))
    if len(above) < 2:
        raise InputError(
            f"t_low {t_low.value:g} ({t_low.unit}) leaves the low-resolution model no step of {run.steps}; hand over later, or take more "
            "steps"
        )
    sampler, sigma = host.sampling.named_sampler(run.sampler_name), float(above[-1])
    below = HandOver(*schedules).levels(below)
    with Progress(len(above) - 1 + (sigma > 0) + len(below) - 1, "bridging resolutions") as bar:
        first = low.sample(sampler, above, latent, run.seed, bar)
        larger, image = bridge_resolution(low, high.vae, first, sigma, resampling, bar=bar)
        if len(below) > 1:
            larger = high.sample(sampler, below, larger, (int(run.seed) + 1) % 2**64, bar)
    return larger, image
