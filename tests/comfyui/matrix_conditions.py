"""Rows of the matrix for adapters and for conditions beside the prompt."""

from __future__ import annotations

import families
import torch
from inside import relative
from matrix import Case, Wrong, equal, finite, row

import nodes


@row("KroneckerAdapterLoader")
def _(case: Case) -> None:
    adapted = case.node("KroneckerAdapterLoader", model=case.model, adapter_name="tiny-adapter.safetensors")[0]
    if relative(case.sampled(case.guider(adapted)), case.stock) < 1e-6:
        raise Wrong("the adapter changes nothing")


@row("ControlAdapterApply")
def _(case: Case) -> None:
    control = case.node("ControlAdapterLoader", **{_first(case, "ControlAdapterLoader"): "tiny-control.safetensors"})[0]
    height, width = (side * families.FACTOR for side in case.family.size[-2:])
    edges = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(4))
    positive, _ = case.node("ControlAdapterApply", **case.prompts, control_net=control, edges=edges)
    finite("with edges", case.sampled(case.guider(positive=positive)))


def _first(case: Case, name: str) -> str:
    return next(iter(nodes.NODE_CLASS_MAPPINGS[f"RapidDraw{name}"].INPUT_TYPES()["required"]))


@row("ImageVariationEncode")
def _(case: Case) -> None:
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    variation = case.node(
        "ImageVariationEncode", image=picture, tokens_name="tiny-image_tokens.safetensors", tower_name="tiny-image.safetensors",
        model=case.model,
    )[0]  # fmt: skip
    finite("a picture as the prompt", case.sampled(case.guider(positive=variation)))


@row("ConditioningConcatFeature")
def _(case: Case) -> None:
    """The two halves of a prompt's features make the prompt again."""
    (tokens, more), half = case.positive[0], case.family.width // 2
    first, second = [[tokens[..., :half], more]], [[tokens[..., half:], more]]
    both = case.node("ConditioningConcatFeature", first=first, second=second, model=case.model)[0]
    equal("the two halves of a prompt", case.sampled(case.guider(positive=both)), case.stock)


@row("ConditioningSetResolutionIndex")
def _(case: Case) -> None:
    marked = case.node("ConditioningSetResolutionIndex", conditioning=case.positive, index=1, model=case.model)[0]
    finite("a resolution index", case.sampled(case.guider(positive=marked)))
