"""The embedded host's MODELs in training."""

from __future__ import annotations

from typing import Any

import torch

from ..denoiser import Condition, Denoiser, first_of, frozen_dtype, make_trainable
from .model import Model


def denoiser(model: Model, train: bool = False, room: int = 0, frozen: bool = False) -> Denoiser:
    """See :meth:`TrainingTopic.denoiser`. Everything is on the device already."""
    inner, network, levels = model.model, model.model.diffusion_model, model.model.model_sampling
    dtype = frozen_dtype(inner.device) if frozen else torch.float32
    release = make_trainable(network, inner.device, dtype, not frozen) if train else _nothing

    def denoise(x: torch.Tensor, sigma: torch.Tensor, given: Condition) -> torch.Tensor:
        y = given.get("y")
        added = None if y is None else {"text_embeds": y[:, : inner.pooled_width], "time_ids": y[:, inner.pooled_width :]}
        half = next(network.parameters()).dtype
        output = network(
            levels.calculate_input(sigma, x).to(half), levels.timestep(sigma), encoder_hidden_states=given["tokens"].to(half),
            added_cond_kwargs=added, return_dict=False,
        )[0]  # fmt: skip
        return levels.calculate_denoised(sigma, output.float(), x)

    def condition(conditioning: Any, shape: tuple[int, ...]) -> dict[str, Any]:
        tokens, details = first_of(conditioning)
        found = {"tokens": tokens.float()}
        if inner.pooled_width:
            found["y"] = inner.encode_adm(details, torch.zeros(1, *shape))
        return found

    schedule = levels.schedule
    steps = (schedule.t_min, schedule.t_max)
    return Denoiser(
        network, levels.prediction, levels.sigmas, steps, inner.device, denoise,
        lambda latents, sigma, noise: levels.noise_scaling(sigma, noise, latents), condition, inner.process_latent_in,
        inner.process_latent_out, release,
    )  # fmt: skip


def check(model: Model, conditioning: Any, size: int) -> None:
    """See :meth:`TrainingTopic.check`. Every model here can be trained."""


def _nothing() -> None:
    return None
