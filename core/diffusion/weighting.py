"""Weights of training errors by noise level, for each kind of prediction."""

from __future__ import annotations

from torch import Tensor, ones_like

WEIGHTINGS = ("none", "min_snr")
MIN_SNR_GAMMA = 5.0


def loss_weight(weighting: str, prediction: str, sigma: Tensor) -> Tensor:
    """Return the factor of the squared error of an output of kind `prediction` at `sigma` (B,): 1 for `none`; for `min_snr` min(SNR, 5) on
    an error of x0 (Hang et al. 2023), converted to the kind that is predicted."""
    if weighting == "none":
        return ones_like(sigma)
    if prediction == "flow":
        return (1 / sigma - 1).square().clamp(max=MIN_SNR_GAMMA) * sigma.square()
    snr = sigma**-2
    of_x0 = snr.clamp(max=MIN_SNR_GAMMA)
    return {"x0": of_x0, "eps": of_x0 / snr, "v": of_x0 / (snr + 1)}[prediction]


def output_slope(prediction: str, sigma: Tensor) -> Tensor:
    """Return the factor from an error in `denoised` to an error in the network's raw output of kind `prediction`, at `sigma` (B,)."""
    return {"x0": ones_like(sigma), "eps": 1 / sigma, "flow": 1 / sigma, "v": (sigma**2 + 1).sqrt() / sigma}[prediction]
