"""Surgery on the embedded host's MODELs: a copy to operate on, changes of weights, and one evaluation to measure."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...lowrank.kronecker import add_deltas, can_update, dense_shape
from ...lowrank.layers import has_factors
from .model import Model, copy_options


def rebuild(model: Model, surgery: Callable[[Any], None]) -> Model:
    """See :meth:`SurgeryTopic.rebuild`. There are no weight patches here that could be merged in."""
    inner = copy.copy(model.model)
    inner.diffusion_model = copy.deepcopy(model.model.diffusion_model)
    surgery(inner.diffusion_model)
    return Model(inner, copy_options(model.model_options))


def weight_shapes(model: Model) -> dict[str, torch.Size]:
    """See :meth:`SurgeryTopic.weight_shapes`."""
    factored = tuple(f"{name}." for name, layer in model.model.diffusion_model.named_modules() if has_factors(layer) and can_update(layer))
    layers = [(name, layer) for name, layer in model.model.diffusion_model.named_modules() if can_update(layer)]
    return {name: dense_shape(layer) for name, layer in layers if not name.startswith(factored)}


def add_weights(model: Model, deltas: Mapping[str, torch.Tensor], strength: float) -> Model:
    """See :meth:`SurgeryTopic.add_weights`. The weights that do not change are shared with the given model."""
    inner, network = copy.copy(model.model), model.model.diffusion_model
    changed = tuple(f"{name}." for name in deltas)
    kept = {id(one): one for name, one in network.named_parameters() if not name.startswith(changed)}
    inner.diffusion_model = copy.deepcopy(network, kept)
    add_deltas(inner.diffusion_model, deltas, strength)
    return Model(inner, copy_options(model.model_options))


def check_evaluation(model: Model, conditioning: Any) -> None:
    """See :meth:`SurgeryTopic.check_evaluation`. Every model here is a U-Net."""


def evaluate(model: Model, latent: Mapping[str, Any], conditioning: Any = None) -> Callable[[], None]:
    """See :meth:`SurgeryTopic.evaluate`. Every model here is a U-Net, whose time does not depend on the words of the prompt."""
    inner, empty = model.model, latent["samples"]
    shape = (empty.shape[0], inner.latent_format.channels, *empty.shape[2:])  # an empty latent has four channels whatever the model takes
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(inner.device)
    tokens = torch.randn(len(x), 24, inner.context_width, generator=torch.Generator().manual_seed(1)).to(inner.device)
    sigma = inner.model_sampling.sigma(torch.full((len(x),), 500)).to(inner.device)
    pooled = torch.zeros(1, inner.pooled_width, device=inner.device)
    y = inner.encode_adm({"pooled_output": pooled}, x).expand(len(x), -1) if inner.pooled_width else None
    return lambda: _discard(inner.apply_model(x, sigma, tokens, y))


def _discard(_: Any) -> None:
    return None
