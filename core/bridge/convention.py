"""States and noise levels of one model in the noise convention of another (:mod:`~rapiddraw.core.diffusion.noise`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..diffusion.noise import beside, convention_of, same_snr


class HandOver:
    """The way from a giver's states to a receiver's; both are given by their `model_sampling` objects.

    Between models of one convention nothing changes, and a level outside the receiver's schedule is left to the receiver.
    """

    def __init__(self, giver: Any, receiver: Any) -> None:
        self.giver, self.receiver = giver, receiver
        self.here, self.there = convention_of(giver), convention_of(receiver)

    def at(self, sigma: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (the receiver's level of the giver's `sigma`, the factor from the giver's state to the receiver's); both (B,) or ().

        The factor is None where both share a convention. The levels have the same signal-to-noise ratio, as far as the receiver's range
        goes. Above its largest level, as at a flow model's start, the state keeps its noise and loses what little it holds of a picture.
        """
        if self.here == self.there:
            return sigma, None
        exact, asked = self.there.sigma(self.here.level(sigma)), same_snr(sigma, self.giver, self.receiver)
        noise = asked * self.there.noise_scale / (sigma * self.here.noise_scale)
        signal = self.there.alpha(exact) / self.here.alpha(sigma)
        return asked, torch.where(exact > asked, noise, signal)

    def levels(self, sigmas: Tensor) -> Tensor:
        """Return SIGMAS of the giver as levels of the receiver, descending, inside its range and without repetitions."""
        if self.here == self.there:
            return sigmas
        return torch.unique_consecutive(same_snr(sigmas, self.giver, self.receiver))


def sigmas_for(giver: Any, receiver: Any, sigmas: Tensor | None) -> Tensor:
    """Return SIGMAS of the MODEL `giver` as levels of the MODEL `receiver`; as they are without a receiver, empty without sigmas."""
    if sigmas is None:
        return torch.zeros(0)
    if receiver is None:
        return sigmas
    return HandOver(*(model.get_model_object("model_sampling") for model in (giver, receiver))).levels(sigmas)


def times(state: Tensor, factor: Tensor | None) -> Tensor:
    """Return `state` (B, ...) times a factor (() or (B,)), or as it is where there is none."""
    return state if factor is None else state * beside(factor, state)
