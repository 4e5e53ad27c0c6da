"""Rows of the matrix for trainings on a folder of pictures: one step each."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from inside import FOLDER
from matrix import Case, Wrong, equal, finite, row

SIZES = {"PixArt Sigma": 512}
"""Sizes of pictures where 128 is too small: ComfyUI's own PixArt divides by zero."""


def trained(case: Case, node: str, **given: Any) -> tuple[Any, ...]:
    """What a training node returns after one step on three pictures."""
    return case.node(
        node, model=case.model, clip=case.clip, vae=case.vae, folder="fruits", steps=1, batch_size=1, size=SIZES.get(case.name, 128),
        prompts="a red fruit", filename=name_of(case, node), **given,
    )  # fmt: skip


def name_of(case: Case, node: str) -> str:
    """A file name of this family and node."""
    return f"{zlib.crc32(case.name.encode())}-{node}"


@row("TrainDomainModel")
def _(case: Case) -> None:
    model, _, report, _, samples = trained(case, "TrainDomainModel", rank=1)
    finite("the samples", samples)
    finite("with the LoRA", case.sampled(case.guider(model)))
    if "saved as" not in report:
        raise Wrong("nothing was saved")


@row("TrainTimeDecoupledPair")
def _(case: Case) -> None:
    structure, texture, *_ = trained(case, "TrainTimeDecoupledPair", rank=1)
    for model in (structure, texture):
        finite("with one LoRA", case.sampled(case.guider(model)))


@row("LoadTimeDecoupledLoras")
def _(case: Case) -> None:
    """Two LoRAs of one layer, as the trainer writes them."""
    layers = case.ours("core.lowrank.hooked").paired_layers(case.model.model.diffusion_model)
    name, layer = max(((name, layer) for name, layer in layers if layer.weight.dim() == 2), key=lambda one: one[1].weight.numel())
    key, (out, inner) = case.host.surgery.lora_key(case.model, name), layer.weight.shape
    pair, paths = name_of(case, "pair"), []
    for seed, part in enumerate(("structure", "texture")):
        generator = torch.Generator().manual_seed(seed)
        up, down = torch.randn(out, 1, generator=generator), torch.randn(1, inner, generator=generator) / inner
        paths.append(FOLDER / "output" / "loras" / f"{pair}-{part}.safetensors")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        case.ours("core.lowrank.lora_file").save_lora(paths[-1], {key: (up, down, 1.0)}, {"part": part, "t_struct": 400})
    *models, switch = case.node("LoadTimeDecoupledLoras", model=case.model, pair=pair)
    for model, path in zip(models, paths, strict=True):
        stock = case.host.surgery.add_lora(case.model, None, path, 1.0, 0.0)[0]
        equal(f"{path.stem} by Load LoRA", case.sampled(case.guider(model)), case.sampled(case.guider(stock)))
    if switch != 400:
        raise Wrong(f"the switch is at {switch}")


@row("TrainKroneckerAdapter")
def _(case: Case) -> None:
    model, _, _, samples = trained(case, "TrainKroneckerAdapter", rank=1)
    finite("the samples", samples)
    loaded = case.node("KroneckerAdapterLoader", model=case.model, adapter_name=f"{name_of(case, 'TrainKroneckerAdapter')}.safetensors")[0]
    equal("the node's model", case.sampled(case.guider(loaded)), case.sampled(case.guider(model)))


@row("TrainControlAdapter")
def _(case: Case) -> None:
    control, *_ = trained(case, "TrainControlAdapter", ratio=0.9)
    height, width = (side * 8 for side in case.family.size[-2:])
    edges = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(4))
    positive, _ = case.node("ControlAdapterApply", **case.prompts, control_net=control, edges=edges)
    finite("with edges", case.sampled(case.guider(positive=positive)))


@row("TrainImageTokens")
def _(case: Case) -> None:
    name, _, _, samples = trained(case, "TrainImageTokens", tokens=3, hidden=8, reading=2, tower_name="tiny-image.safetensors")
    finite("the samples", samples)
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    prompt = case.node(
        "ImageVariationEncode", image=picture, tokens_name="", tower_name="tiny-image.safetensors", model=case.model, trained=name,
        conditioning=case.positive,
    )[0]  # fmt: skip
    finite("a picture after the prompt", case.sampled(case.guider(positive=prompt)))
