"""What an error costs in training, by noise level: the weights, and how errors of one kind of prediction translate to another."""

from __future__ import annotations

from torch import Tensor, ones_like

WEIGHTINGS = ("none", "min_snr")
MIN_SNR_GAMMA = 5.0


def loss_weight(weighting: str, prediction: str, sigma: Tensor) -> Tensor:
    """What the squared error of an output of kind `prediction` is multiplied by at `sigma` (B,): 1 for `none`, and for `min_snr`
    min(SNR, 5) in x0 terms (Hang et al. 2023), carried over to what is predicted."""
    if weighting == "none":
        return ones_like(sigma)
    snr = sigma**-2
    of_x0 = snr.clamp(max=MIN_SNR_GAMMA)
    return {"x0": of_x0, "eps": of_x0 / snr, "v": of_x0 / (snr + 1)}[prediction]


def output_slope(prediction: str, sigma: Tensor) -> Tensor:
    """How far a network's raw output of kind `prediction` moves when its estimate of x0 moves by one, at `sigma` (B,): two networks asked
    about the same x differ by this much more in their outputs than in `denoised`."""
    return {"x0": ones_like(sigma), "eps": 1 / sigma, "v": (sigma**2 + 1).sqrt() / sigma}[prediction]
