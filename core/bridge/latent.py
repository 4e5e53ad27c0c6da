"""The latent-space bridge of Coop-Diffusion (Lu et al. 2023, PanGu-Draw, section 4.2 and algorithm 1, sub-module 1).

Two models of different latent spaces draw one picture. At one noise level each predicts from its own state: model A gives D_A, model B
gives D_B. The predictions are fused in A's space with strength d, and the result is carried back to B's space:

    fused   = d * E_A(Dec_B(D_B)) + (1 - d) * D_A            (lines 2 to 5; in `denoised` form, which is the same affine mix)
    fused_B = E_B(Dec_A(fused))                              (line 7, which the paper leaves to the reader)

E are the encoders' posterior means, Dec the decoders. The paper does not say how different sizes are matched: here the picture between the
two VAEs is resampled (bicubic). Noise levels are matched by sigma; for a level outside B's schedule B takes its nearest timestep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..checks import whole_number
from ..errors import InputError
from ..host import current
from ..host.fit import without_control
from .frames import check_plain, decode_frames, empty_latent, encode_frames, kept_for, pixel_frames
from .resample import resample_frames
from .side import Side

GUESS_MODES = ("off", "early window", "decay over depth", "both")
"""Presets for a ControlNet of B with an empty prompt. See :func:`guessing`."""
EARLY_STRENGTH, EARLY_END = 0.9, 0.3
"""The early window, measured on the Orchard: it costs the text 5 points of accuracy where strength 0.5 to the end costs 29."""


@dataclass(frozen=True)
class Fusion:
    """How strongly and when two models are fused.

    `strength` d goes from 0 (A alone, no VAE is called) to 1 (A's model is not asked). Fusion happens between the percents `start` and
    `end` of A's schedule, in every `every`-th step (1 to 10000). In other steps each model goes on from its own state.
    """

    strength: float = 0.5
    start: float = 0.0
    end: float = 0.8
    every: int = 1

    def check(self) -> None:
        """Raise :class:`InputError` for numbers out of range."""
        for name, value in (("strength", self.strength), ("start_percent", self.start), ("end_percent", self.end)):
            if not math.isfinite(value) or not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; it must lie between 0 and 1")
        whole_number("bridge_every", self.every, 1, 10000)

    def active(self, schedule: Any, sigma: float, sigmas: Tensor) -> bool:
        """Return whether to fuse at `sigma`, a level within the sampling run `sigmas`.

        This depends on the noise level alone, so that all evaluations of one step are treated alike.
        """
        if self.strength == 0 or not schedule.percent_to_sigma(self.end) <= sigma <= schedule.percent_to_sigma(self.start):
            return False
        step = int((sigmas >= sigma * (1 - 1e-5)).sum()) - 1
        return max(step, 0) % int(self.every) == 0


def guessing(b: Side, fusion: Fusion, mode: str) -> tuple[Side, Fusion]:
    """Return (model B's side, the fusion) for a preset of guess mode.

    `early window` fuses strongly and briefly (:data:`EARLY_STRENGTH` up to :data:`EARLY_END`). `decay over depth` weakens B's ControlNets
    in the shallow layers and leaves them out of its negative prompt, as ControlNet's own guess mode does. Raises :class:`InputError` for an
    unknown mode.
    """
    if mode not in GUESS_MODES:
        raise InputError(f"unknown guess mode {mode!r}: the known ones are {', '.join(GUESS_MODES)}")
    if mode in ("early window", "both"):
        fusion = replace(fusion, strength=EARLY_STRENGTH, start=0.0, end=EARLY_END)
    if mode in ("decay over depth", "both"):
        b = replace(b, positive=current().control.in_guess_mode(b.positive), negative=without_control(b.negative))
    return b, fusion


def fuse(a: Side, b: Side, denoised_a: Tensor | None, denoised_b: Tensor, shape_a: torch.Size, strength: float) -> tuple[Tensor, Tensor]:
    """Return (the fused prediction in A's space, the same in B's), each in its model's scale. `denoised_a` may be None at strength 1."""
    carried = a.to_latent(b.to_frames(denoised_b), shape_a).to(denoised_b)
    fused = carried if denoised_a is None else torch.lerp(denoised_a, carried.to(denoised_a), strength)
    return fused, b.to_latent(a.to_frames(fused), denoised_b.shape).to(denoised_b)


def latent_for_b(a: Side, b: Side, latent_a: Mapping[str, Any]) -> dict[str, Any]:
    """Return the LATENT that B starts from where none is given, of the same size in pixels: empty where A's is, else A's picture."""
    samples = latent_a["samples"]
    check_plain(samples)
    cell_a, cell_b = a.vae.spacial_compression_encode(), b.vae.spacial_compression_encode()
    height, width = (max(1, round(side * cell_a / cell_b)) for side in samples.shape[-2:])
    if samples.any():
        frames = resample_frames(decode_frames(a.vae, samples), (width * cell_b, height * cell_b))
        made = encode_frames(b.vae, frames)
    else:
        made = empty_latent(b.vae, samples.shape[0], pixel_frames(a.vae, samples), (height, width))
    return {**kept_for(latent_a, made), "samples": made}
