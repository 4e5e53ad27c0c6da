"""The embedded host's MODELs in training."""

from __future__ import annotations

from typing import Any

import torch

from ..denoiser import Condition, Denoiser, Inputs, first_of, frozen_dtype, make_trainable
from ..texts import TextsInTraining
from .clip import Clip
from .model import Model
from .sd_clip import SdClip
from .texts import in_training


def denoiser(model: Model, train: bool = False, room: int = 0, frozen: bool = False) -> Denoiser:
    """See :meth:`TrainingTopic.denoiser`. Everything is on the device already."""
    inner, network, levels = model.model, model.model.diffusion_model, model.model.model_sampling
    dtype = frozen_dtype(inner.device) if frozen else torch.float32
    release = make_trainable(network, inner.device, dtype, not frozen) if train else _nothing

    def denoise(x: torch.Tensor, sigma: torch.Tensor, given: Condition) -> torch.Tensor:
        half = next(network.parameters()).dtype
        network_input, timestep, tokens, told = taken(x, sigma, given)
        control, options = given.get("control"), {}
        if control is not None:
            options["down_block_additional_residuals"] = tuple(one.to(half) for one in control["output"])
            options["mid_block_additional_residual"] = control["middle"][0].to(half)
        output = network(
            network_input.to(half), timestep, encoder_hidden_states=tokens.to(half), added_cond_kwargs=told, return_dict=False, **options
        )[0]
        return levels.calculate_denoised(sigma, output.float(), x)

    def taken(x: torch.Tensor, sigma: torch.Tensor, given: Condition) -> Inputs:
        y = given.get("y")
        told = None if y is None else {"text_embeds": y[:, : inner.pooled_width], "time_ids": y[:, inner.pooled_width :]}
        return levels.calculate_input(sigma, x), levels.timestep(sigma), given["tokens"], told

    def condition(conditioning: Any, shape: tuple[int, ...]) -> dict[str, Any]:
        tokens, details = first_of(conditioning)
        found = {"tokens": tokens.float()}
        if inner.pooled_width:
            found["y"] = inner.encode_adm(details, torch.zeros(1, *shape))
        return found

    return Denoiser(
        network, levels.prediction, levels.sigmas, _range(model), inner.device, denoise,
        lambda latents, sigma, noise: levels.noise_scaling(sigma, noise, latents), condition, inner.process_latent_in,
        inner.process_latent_out, release, taken,
    )  # fmt: skip


def texts(clip: Clip | SdClip) -> TextsInTraining:
    """See :meth:`TrainingTopic.texts`."""
    return in_training(clip)


def check(model: Model, conditioning: Any, size: int) -> None:
    """See :meth:`TrainingTopic.check`. Every model here can be trained."""


def levels(model: Model) -> tuple[tuple[int, int], int]:
    """See :meth:`TrainingTopic.levels`."""
    return _range(model), len(model.model.model_sampling.sigmas)


def _range(model: Model) -> tuple[int, int]:
    schedule = model.model.model_sampling.schedule
    return schedule.t_min, schedule.t_max


def _nothing() -> None:
    return None
