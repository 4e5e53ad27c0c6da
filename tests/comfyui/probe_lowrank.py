"""Low-rank MODELs inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

import importlib
from typing import Any

from inside import MODELS, RESULT, load_pack, relative, write

# isort: split
import comfy.hooks
import comfy.lora
import comfy.sd
import comfy.supported_models
import torch
from models import LATENT, output, sd15_unet

import nodes

found: dict[str, Any] = {}


def count_functions(network: Any) -> None:
    found["patched_on_the_way"] = sum(bool(getattr(module, "weight_function", None)) for module in network.modules())


def loras(model: Any) -> dict[str, Any]:
    """A LoRA for every linear and convolution weight that the *dense* model has, under the names trainers use."""
    generator, made = torch.Generator().manual_seed(9), {}
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        weight = model.model.state_dict().get(key)
        if not name.startswith("lora_unet_") or weight is None or weight.dim() < 2 or not key.endswith(".weight"):
            continue
        down = torch.randn(2, *weight.shape[1:], generator=generator) * 0.3
        up = torch.randn(weight.shape[0], 2, *[1] * (weight.dim() - 2), generator=generator) * 0.3
        made |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    return made


def run() -> None:
    ours = load_pack()
    host = ours("core.host").current()
    factorize, layers, svd = ours("core.lowrank.factorize"), ours("core.lowrank.layers"), ours("core.lowrank.svd")
    weights = MODELS
    dense = host.model.load(weights / "tiny-unet.safetensors")
    before = output(dense)

    low = host.surgery.rebuild(dense, lambda network: factorize.factorize(network, "param_ratio", 0.7, split="symmetric"))
    flat = host.surgery.rebuild(low, factorize.merge_back)
    found["classes"] = [type(low).__name__, type(low.model).__name__, type(flat).__name__, type(low.clone()).__name__]
    found["layers"] = sum(isinstance(module, layers.FACTORED) for module in host.speed.network_of("model", low).modules())
    found["factored_differs"] = relative(output(low), before)
    found["merged_equals_factored"] = relative(output(flat), output(low))
    found["source_unchanged"] = bool(torch.equal(output(dense), before))
    found["smaller"] = low.model_size() / dense.model_size()

    def at_full_rank(network: Any) -> None:
        for name, _, layer in list(ours("core.lowrank.plan").targeted(network, ["attention", "resnet"])):
            spectrum = svd.Spectrum.of(layer.weight)
            factorize.put_factors(network, name, spectrum.factors(len(spectrum.s)))

    full = host.surgery.rebuild(dense, at_full_rank)
    found["full_rank"] = relative(output(full), before)

    lora = loras(dense)
    found["lora_keys"] = len(lora)
    patched = [comfy.sd.load_lora_for_models(model, None, lora, 0.8, 0)[0] for model in (low, flat)]
    outputs = [output(model) for model in patched]
    found["lora_changes"], found["lora_equals_dense"] = relative(outputs[1], output(flat)), relative(*outputs)
    twice = [comfy.sd.load_lora_for_models(model, None, lora, -0.3, 0)[0] for model in patched]
    found["two_loras"] = relative(*(output(model) for model in twice))
    found["lora_lowvram"] = relative(output(patched[0], lowvram=True, look=count_functions), outputs[1])
    found["unpatched_again"] = relative(output(low), output(flat))

    diff = {key: ("diff", (torch.randn(t.shape, generator=torch.Generator().manual_seed(5)) * 0.1,)) for key, t in _weights(flat)}
    moved = []
    for model in (low, flat):
        clone = model.clone()
        taken = clone.add_patches(diff, 0.5, 0.9)
        moved.append((output(clone), len(taken)))
    found["diff_equals_dense"], found["diff_taken"] = relative(moved[0][0], moved[1][0]), [moved[0][1], moved[1][1], len(diff)]

    other = host.model.load(weights / "eps-unet.safetensors")
    merge = nodes.NODE_CLASS_MAPPINGS.get("ModelMergeSimple") or _extra("nodes_model_merging", "ModelMergeSimple")
    ab = [merge().merge(model, other, 0.3)[0] for model in (low, flat)]
    ba = [merge().merge(other, model, 0.3)[0] for model in (low, flat)]
    found["merge_into_low"] = relative(*(output(model) for model in ab))
    found["merge_low_into"] = relative(*(output(model) for model in ba))

    saved = host.model.save(patched[0], RESULT.parent / "saved.safetensors", {"recipe": "test"})
    again = host.model.load(saved)
    found["reloaded"], found["reloaded_layers"] = (
        relative(output(again), outputs[0]),
        sum(isinstance(module, layers.FACTORED) for module in host.speed.network_of("model", again).modules()),
    )

    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=0.0)
    loaded = comfy.lora.load_lora(lora, comfy.lora.model_lora_keys_unet(low.model, {}))
    try:
        low.clone().add_hook_patches(hook, loaded)
    except Exception as error:
        found["hook"] = f"{type(error).__name__}: {error}"

    foreign = sd15_unet()
    theirs = host.surgery.rebuild(foreign, lambda network: factorize.factorize(network, "rank", 4))
    wanted = output(theirs)
    kept = host.model.save(theirs, RESULT.parent / "foreign.safetensors", {})
    found["foreign"] = relative(output(host.model.load(kept)), wanted)
    found["evaluates"] = host.surgery.evaluate(low, LATENT)() is None
    write(found)


def _weights(model: Any) -> list[tuple[str, torch.Tensor]]:
    state = model.model.state_dict()
    return [(key, tensor) for key, tensor in state.items() if key.startswith("diffusion_model.") and tensor.dim() in (2, 4)]


def _extra(module: str, name: str) -> Any:
    found_module = importlib.import_module(f"comfy_extras.{module}")
    return found_module.NODE_CLASS_MAPPINGS[name]


with torch.inference_mode():
    run()
