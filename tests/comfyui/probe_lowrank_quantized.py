"""Low-rank MODELs with quantized layers, and where ComfyUI streams weights; started as inside.py says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from inside import MODELS, RESULT, load_pack, relative, write

# isort: split
import comfy.model_patcher
import comfy.supported_models
import families
import models
import torch

import nodes

found: dict[str, Any] = {}
NAME = "Flux"


def drawn(model: Any) -> torch.Tensor:
    texts = [families.conditioning(NAME, seed=seed) for seed in (1, 2)]
    return nodes.common_ksampler(model, 1, 1, 1.0, "euler", "simple", *texts, families.latent(NAME, seed=3), denoise=0.5)[0]["samples"]


def mixed(chosen: Callable[[str], bool]) -> Any:
    """A MODEL as ComfyUI loads a file of scaled 8-bit weights; `chosen` says which linear layers are stored so."""
    family, plain = families.FAMILIES[NAME], families.model(NAME).model.diffusion_model
    tensors = plain.state_dict()
    for name, layer in plain.named_modules():
        if isinstance(layer, torch.nn.Linear) and chosen(name):
            scale = layer.weight.abs().max() / 448
            tensors[f"{name}.weight"] = (layer.weight / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}.weight_scale"] = scale.float()
            tensors[f"{name}.comfy_quant"] = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    config = getattr(comfy.supported_models, family.config)(family.unet)
    config.quant_config = {"mixed_ops": True}
    config.set_inference_dtype(torch.float32, torch.float32)
    inner = config.get_model({}, "")
    inner.load_model_weights(tensors, "")
    return comfy.model_patcher.ModelPatcher(inner.eval(), families.CPU, families.CPU)


def factored(model: Any) -> tuple[Any, str]:
    """The node Factorize at rank 4, and its report; or the message of its error in the place of both."""
    node = nodes.NODE_CLASS_MAPPINGS["RapidDrawFactorizeUNet"]
    try:
        return node().execute(model, "rank", 4, "symmetric", "off", True, True, True, True)[:2]
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def run() -> None:
    ours = load_pack()
    host, layers = ours("core.host").current(), ours("core.lowrank.layers")

    whole = mixed(lambda name: name.startswith(("double_blocks", "single_blocks")))
    found["finite"] = bool(drawn(whole).isfinite().all())
    found["all quantized"] = factored(whole)[1]

    part = mixed(lambda name: name.startswith("double_blocks"))
    low, report = factored(part)
    found["report"] = report
    found["factored"] = [name for name, layer in low.model.diffusion_model.named_modules() if isinstance(layer, layers.FACTORED)]
    before = drawn(low)
    found["low differs"] = relative(before, drawn(part))
    flat = host.surgery.rebuild(low, ours("core.lowrank.factorize").merge_back)
    found["merged back"] = relative(drawn(flat), before)
    again = host.model.load(host.model.save(low, RESULT.parent / "part.safetensors", {}))
    found["reloaded"] = relative(drawn(again), before)
    found["still quantized"] = sum(layers.quantization(layer) is not None for layer in again.model.diffusion_model.modules())

    # Weights in 8 bits without a scale, as Load Diffusion Model's weight_dtype makes them.
    stored = families.model(NAME)
    for layer in stored.model.diffusion_model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    found["stored in 8 bits"] = factored(stored)[1]
    streamed(host, ours)
    write(found)


def streamed(host: Any, ours: Any) -> None:
    """Newer versions leave a linear layer's tensors out until they are loaded, where they stream weights from the disk."""
    try:
        import comfy.memory_management as memory

        memory.aimdo_enabled  # noqa: B018 - older versions lack it
    except (ImportError, AttributeError):
        found["streamed"] = None
        return
    dense, ours_before = families.model(NAME), models.output(host.model.load(MODELS / "tiny-unet.safetensors"))
    before = drawn(dense)
    memory.aimdo_enabled = True
    try:
        low, _ = factored(dense)
        wanted = drawn(low)
        again = host.model.load(host.model.save(low, RESULT.parent / "streamed.safetensors", {}))
        flat = host.surgery.rebuild(low, ours("core.lowrank.factorize").merge_back)
        bundle = models.output(host.model.load(MODELS / "tiny-unet.safetensors"))
        found["streamed"] = {
            "low differs": relative(wanted, before), "reloaded": relative(drawn(again), wanted),
            "merged back": relative(drawn(flat), wanted), "bundle": relative(bundle, ours_before),
        }  # fmt: skip
    finally:
        memory.aimdo_enabled = False


with torch.inference_mode():
    run()
