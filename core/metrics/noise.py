"""Statistics of the noise in a latent: is it still white? (Lu et al. 2023, PanGu-Draw, section 4.2: the IID assumption.)"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..diffusion.noise import VE, Convention
from ..errors import InputError


@dataclass(frozen=True)
class NoiseStatistics:
    """`correlation` between neighbouring cells (lag 1, mean over rows and columns) and `std`, in units of the noise level.

    White noise has 0 and 1. An estimate from n cells scatters by about 1 / sqrt(2 n) in either.
    """

    correlation: float
    std: float
    cells: int

    def table(self) -> str:
        """Return the statistics as two short lines."""
        return f"correlation of neighbours {self.correlation:+.3f} (white noise: 0)\nstandard deviation {self.std:.3f} (white noise: 1)"


def noise_statistics(noisy: Tensor, clean: Tensor, sigma: float, convention: Convention = VE) -> NoiseStatistics:
    """Return statistics of the noise in `noisy` over `clean`, both (B, C, h, w) or (B, C, T, h, w) in the model's own scale.

    The noise is (noisy - alpha clean) / beta at the level `sigma` in the model's `convention`. Neighbours are those of one frame. Raises
    :class:`InputError` for different shapes, fewer than 2 x 2 cells or a sigma that is not above 0.
    """
    if noisy.shape != clean.shape:
        raise InputError(
            f"latents of two shapes were given, {tuple(noisy.shape)} and {tuple(clean.shape)}; give one latent with and without noise"
        )
    if noisy.ndim not in (4, 5) or min(noisy.shape[-2:]) < 2:
        raise InputError(f"a latent of shape {tuple(noisy.shape)} was given; expected pictures or videos of at least 2 x 2 cells")
    if not math.isfinite(sigma) or sigma <= 0:
        raise InputError(f"sigma is {sigma}; it must be a number above 0: the noise level that the noisy latent has")
    noise = ((noisy - convention.alpha(sigma) * clean) / convention.beta(sigma)).double()
    power = float((noise**2).mean())
    if not math.isfinite(power) or power == 0:
        raise InputError("the two latents are equal or not finite: there is no noise to look at")
    beside = (float((noise[..., :-1] * noise[..., 1:]).mean()), float((noise[..., :-1, :] * noise[..., 1:, :]).mean()))
    return NoiseStatistics(sum(beside) / 2 / power, math.sqrt(power), noise.numel())
