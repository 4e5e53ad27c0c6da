"""Low-rank MODELs inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

import importlib
import inspect
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

    found["in any order"] = {name: relative(*pair) for name, pair in in_any_order(low, flat, lora, other, merge).items()}
    found["stock"] = stock_loras(low, flat, patched, lora)
    found["own weights"] = own_weights([dense, patched[0]])

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
    found["evaluates"] = host.surgery.evaluate(low, {"samples": torch.zeros_like(LATENT)})() is None
    write(found)


def in_any_order(low: Any, flat: Any, lora: dict[str, Any], other: Any, merge: Any) -> dict[str, list[torch.Tensor]]:
    """What the factored and the dense model make of patches that depend on the weight, before and after a LoRA, a diff and a merge."""
    weighty, generator = {}, torch.Generator().manual_seed(17)
    linear = [(key, weight) for key, weight in _weights(flat) if weight.dim() == 2]
    kinds = {"dora": {}, "glora": {}, "oft": {}, "set": {}}
    for key, weight in linear:
        out, inner = weight.shape
        up, down, draw = torch.randn(out, 2, generator=generator) * 0.3, torch.randn(2, inner, generator=generator) * 0.3, torch.rand
        scale = weight.float().norm(dim=0, keepdim=True).cpu() * (0.7 + 0.6 * draw(1, inner, generator=generator))
        kinds["dora"][key] = adapter("LoRAAdapter", (up, down, 1.0, None, scale, None))
        a1, a2 = torch.randn(2, inner, generator=generator) * 0.1, torch.randn(inner, 2, generator=generator) * 0.1
        kinds["glora"][key] = adapter("GLoRAAdapter", (a2, a1, up, down, 1.0, None))
        blocks = torch.randn(out // 8, 8, 8, generator=generator) * 0.05
        kinds["oft"][key] = adapter("OFTAdapter", (blocks, None, None, None))
        kinds["set"][key] = ("set", (torch.randn(out, inner, generator=generator) * 0.1,))
    diffs = {key: ("diff", (weight * 0.1,)) for key, weight in _weights(flat)}
    others = {
        "lora": lambda model: comfy.sd.load_lora_for_models(model, None, lora, 0.6, 0)[0],
        "diff": lambda model: patched_with(model, diffs, 0.5, 0.9),
        "merge": lambda model: merge().merge(model, other, 0.3)[0],
    }
    for kind, patches in kinds.items():

        def act(model: Any, patches: Any = patches) -> Any:
            return patched_with(model, patches, 0.8)

        for name, add in others.items():
            weighty[f"{kind} after {name}"] = [output(act(add(model))) for model in (low, flat)]
            weighty[f"{name} after {kind}"] = [output(add(act(model))) for model in (low, flat)]
    weighty["all"] = [output(others["merge"](patched_with(others["lora"](patched_with(model, kinds["dora"], 0.8)), kinds["oft"], 0.5)))
                      for model in (low, flat)]  # fmt: skip
    found["weighty changes"] = min(relative(pair[1], output(flat)) for pair in weighty.values())
    return weighty


def adapter(name: str, weights: tuple[Any, ...]) -> Any:
    return getattr(importlib.import_module("comfy.weight_adapter"), name)(set(), weights)


def patched_with(model: Any, patches: dict[str, Any], strength: float, strength_model: float = 1.0) -> Any:
    clone = model.clone()
    assert len(clone.add_patches(patches, strength, strength_model)) == len(patches)
    return clone


def stock_loras(low: Any, flat: Any, patched: list[Any], lora: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's nodes *Load LoRA (Bypass)*, which older versions lack, and *Extract and Save LoRA*, on the factored and the dense model."""
    said: dict[str, Any] = {"bypass": None}
    if hasattr(comfy.sd, "load_bypass_lora_for_models"):
        bypassed = [comfy.sd.load_bypass_lora_for_models(model, None, lora, 0.8, 0)[0] for model in (low, flat)]
        drawn = [output(model) for model in bypassed]
        said["bypass"], said["bypass is the LoRA"] = relative(*drawn), relative(drawn[0], output(patched[0]))
        said["bypass gone again"] = relative(output(low), output(flat))
    extract = importlib.import_module("comfy_extras.nodes_lora_extract")
    subtract = nodes.NODE_CLASS_MAPPINGS.get("ModelMergeSubtract") or _extra("nodes_model_merging", "ModelMergeSubtract")
    for kind in (extract.LORAType.STANDARD, extract.LORAType.FULL_DIFF):
        made = []
        for model, base in zip(patched, (low, flat), strict=True):
            difference = subtract().merge(model, base, 1.0)[0]
            made.append(extract.calc_lora_model(difference, 4, "diffusion_model.", "diffusion_model.", {}, kind, bias_diff=True))
        shapes = [{key: tensor.shape for key, tensor in one.items()} for one in made]
        said[f"{kind.name} shapes"] = [shapes[0] == shapes[1], len(shapes[0])]
        again = [comfy.sd.load_lora_for_models(flat, None, one, 1.0, 0)[0] for one in made]
        said[f"{kind.name} drawn"] = relative(*(output(one) for one in again))
        said[f"{kind.name} is what was added"] = relative(output(again[0]), output(patched[1]))
    return said


def own_weights(models: list[Any]) -> list[Any] | None:
    """Newer versions ask for a patcher with weights of its own (Train LoRA, several GPUs): its difference, and what it shares."""
    if "force_deepcopy" not in inspect.signature(models[0].clone).parameters:
        return None
    said = []
    for model in models:
        drawn = output(model)
        clone = model.clone(force_deepcopy=True)
        shared = {id(weight) for weight in model.model.parameters()} & {id(weight) for weight in clone.model.parameters()}
        said.append([relative(output(clone), drawn), len(shared), type(clone) is type(model)])
    return said


def _weights(model: Any) -> list[tuple[str, torch.Tensor]]:
    state = model.model.state_dict()
    return [(key, tensor) for key, tensor in state.items() if key.startswith("diffusion_model.") and tensor.dim() in (2, 4)]


def _extra(module: str, name: str) -> Any:
    found_module = importlib.import_module(f"comfy_extras.{module}")
    return found_module.NODE_CLASS_MAPPINGS[name]


with torch.inference_mode():
    run()
