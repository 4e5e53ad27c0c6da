"""Surgery on the embedded host's MODELs: a copy to operate on, changes of weights, and one evaluation to measure."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...errors import BundleError
from ...lowrank.kronecker import add_deltas, can_update, dense_shape
from ...lowrank.layers import has_factors
from ...lowrank.lora_file import PREFIX, TEXT_PREFIX, comfy_name, delta_of, read_lora
from .model import Model, copy_options
from .texts import add_to_texts, text_layers, text_shapes

logger = logging.getLogger("rapiddraw")
Place = TypeVar("Place", str, tuple[str, str])


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


def layer_names(model: Model) -> dict[str, str]:
    """See :meth:`SurgeryTopic.layer_names`."""
    return {name: name for name in weight_shapes(model)}


def add_weights(model: Model, deltas: Mapping[str, torch.Tensor], strength: float) -> Model:
    """See :meth:`SurgeryTopic.add_weights`. The weights that do not change are shared with the given model."""
    inner, network = copy.copy(model.model), model.model.diffusion_model
    changed = tuple(f"{name}." for name in deltas)
    kept = {id(one): one for name, one in network.named_parameters() if not name.startswith(changed)}
    inner.diffusion_model = copy.deepcopy(network, kept)
    add_deltas(inner.diffusion_model, deltas, strength)
    return Model(inner, copy_options(model.model_options))


def lora_key(model: Model, layer: str) -> str:
    """See :meth:`SurgeryTopic.lora_key`. Where ComfyUI has no such layer: the name that trainers of diffusers give it."""
    named = comfy_name(layer, int(model.model.diffusion_model.config["layers_per_block"]))
    return f"{PREFIX}{named}" if named else f"lora_unet_{layer.replace('.', '_')}"


def add_lora(model: Model | None, clip: Any, path: Path, strength_model: float, strength_clip: float) -> tuple[Any, Any]:
    """See :meth:`SurgeryTopic.add_lora`. Keys may be ComfyUI's, or those of other trainers with `_` in the place of dots."""
    factors, used = read_lora(path), set()
    if clip is not None and (places := {key: place for key, place in text_layers(clip).items() if key in factors}):
        used |= set(places)
        changes = _fitting({place: delta_of(factors[key]) for key, place in places.items()}, text_shapes(clip), path.name)
        clip = add_to_texts(clip, changes, strength_clip) if strength_clip != 0 else clip
    if model is not None:
        names: dict[str, str] = {}
        for layer in weight_shapes(model):
            key = lora_key(model, layer)
            names |= {key: layer, f"lora_unet_{key.removeprefix(PREFIX).replace('.', '_')}": layer, f"unet.{layer}": layer}
            names[f"lora_unet_{layer.replace('.', '_')}"] = layer
        fitting = set(names) & set(factors)
        used |= fitting
        deltas = {names[key]: delta_of(factors[key]) for key in fitting}
        if deltas and strength_model != 0:
            model = add_weights(model, _fitting(deltas, weight_shapes(model), path.name), strength_model)
    if not used:
        raise BundleError(f"{path.name} fits no layer of this model; it was made for another family of models")
    texts = (TEXT_PREFIX, "lora_te")
    if left := sum(key not in used and not (clip is None and key.startswith(texts)) for key in factors):
        logger.warning("%s: %d of its %d layers fit nothing here and are left out", path.name, left, len(factors))
    return model, clip


def _fitting(deltas: Mapping[Place, torch.Tensor], shapes: Mapping[Place, torch.Size], name: str) -> dict[Place, torch.Tensor]:
    """Return `deltas` in the shapes of their layers' weights. Raises :class:`BundleError` where one has another size."""
    for layer, delta in deltas.items():
        if (delta.shape[0], delta.shape[1:].numel()) != (shapes[layer][0], shapes[layer][1:].numel()):
            raise BundleError(
                f"{name}: its update of {layer} has the shape {tuple(delta.shape)} and this model's weight {tuple(shapes[layer])}; it was "
                "made for another model"
            )
    return {layer: delta.reshape(shapes[layer]) for layer, delta in deltas.items()}


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
