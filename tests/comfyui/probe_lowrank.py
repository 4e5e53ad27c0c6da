"""Low-rank MODELs inside a ComfyUI process: `probe_lowrank.py COMFYUI FOLDER WEIGHTS RESULT`, like probe.py."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

COMFYUI, FOLDER, WEIGHTS, RESULT = sys.argv[1:5]
os.environ["RAPIDDRAW_WEIGHTS"] = WEIGHTS
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFYUI)
os.chdir(COMFYUI)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.hooks  # noqa: E402
import comfy.lora  # noqa: E402
import comfy.model_management as management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import torch  # noqa: E402

import nodes  # noqa: E402

found: dict[str, Any] = {}
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def output(model: Any, lowvram: bool = False) -> torch.Tensor:
    """Denoised by a MODEL as ComfyUI would load it; `lowvram` leaves every weight where it is and patches on the way."""
    management.unload_all_models()
    if lowvram:
        model.patch_model(lowvram_model_memory=1)
    else:
        management.load_models_gpu([model])
    inner = model.model
    width = inner.model_config.unet_config["context_dim"]
    tokens = torch.randn(2, 7, width, generator=torch.Generator().manual_seed(4))
    sigma = inner.model_sampling.sigma(torch.tensor([300.0, 700.0]))
    try:
        return inner.apply_model(X, sigma, c_crossattn=tokens).clone()
    finally:
        if lowvram:
            found["patched_on_the_way"] = sum(bool(getattr(module, "weight_function", None)) for module in inner.modules())
            model.unpatch_model()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


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
    found["loaded"] = bool(asyncio.run(nodes.load_custom_node(str(Path(FOLDER) / "rapiddraw"))))
    package = next(name for name in sys.modules if name.endswith("custom_nodes.rapiddraw") or name.endswith("rapiddraw"))
    import importlib

    def ours(path: str) -> Any:
        return importlib.import_module(f"{package}.{path}")

    host = ours("core.host").current()
    factorize, layers, svd = ours("core.lowrank.factorize"), ours("core.lowrank.layers"), ours("core.lowrank.svd")
    weights = Path(WEIGHTS)
    dense = host.load_unet(weights / "tiny-unet.safetensors")
    before = output(dense)

    low = host.rebuild(dense, lambda network: factorize.factorize(network, "param_ratio", 0.7, split="symmetric"))
    flat = host.rebuild(low, factorize.merge_back)
    found["classes"] = [type(low).__name__, type(low.model).__name__, type(flat).__name__, type(low.clone()).__name__]
    found["layers"] = sum(isinstance(module, layers.FACTORED) for module in host.network_of("model", low).modules())
    found["factored_differs"] = relative(output(low), before)
    found["merged_equals_factored"] = relative(output(flat), output(low))
    found["source_unchanged"] = bool(torch.equal(output(dense), before))
    found["smaller"] = low.model_size() / dense.model_size()

    def at_full_rank(network: Any) -> None:
        for name, _, layer in list(ours("core.lowrank.plan").targeted(network, ["attention", "resnet"])):
            spectrum = svd.Spectrum.of(layer.weight)
            factorize.put_factors(network, name, spectrum.factors(len(spectrum.s)))

    full = host.rebuild(dense, at_full_rank)
    found["full_rank"] = relative(output(full), before)

    lora = loras(dense)
    found["lora_keys"] = len(lora)
    patched = [comfy.sd.load_lora_for_models(model, None, lora, 0.8, 0)[0] for model in (low, flat)]
    outputs = [output(model) for model in patched]
    found["lora_changes"], found["lora_equals_dense"] = relative(outputs[1], output(flat)), relative(*outputs)
    twice = [comfy.sd.load_lora_for_models(model, None, lora, -0.3, 0)[0] for model in patched]
    found["two_loras"] = relative(*(output(model) for model in twice))
    found["lora_lowvram"] = relative(output(patched[0], lowvram=True), outputs[1])
    found["unpatched_again"] = relative(output(low), output(flat))

    diff = {key: ("diff", (torch.randn(t.shape, generator=torch.Generator().manual_seed(5)) * 0.1,)) for key, t in _weights(flat)}
    moved = []
    for model in (low, flat):
        clone = model.clone()
        taken = clone.add_patches(diff, 0.5, 0.9)
        moved.append((output(clone), len(taken)))
    found["diff_equals_dense"], found["diff_taken"] = relative(moved[0][0], moved[1][0]), [moved[0][1], moved[1][1], len(diff)]

    other = host.load_unet(weights / "eps-unet.safetensors")
    merge = nodes.NODE_CLASS_MAPPINGS.get("ModelMergeSimple") or _extra("nodes_model_merging", "ModelMergeSimple")
    ab = [merge().merge(model, other, 0.3)[0] for model in (low, flat)]
    ba = [merge().merge(other, model, 0.3)[0] for model in (low, flat)]
    found["merge_into_low"] = relative(*(output(model) for model in ab))
    found["merge_low_into"] = relative(*(output(model) for model in ba))

    saved = host.save_unet(patched[0], Path(RESULT).parent / "saved.safetensors", {"recipe": "test"})
    again = host.load_unet(saved)
    found["reloaded"], found["reloaded_layers"] = (
        relative(output(again), outputs[0]),
        sum(isinstance(module, layers.FACTORED) for module in host.network_of("model", again).modules()),
    )

    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=0.0)
    loaded = comfy.lora.load_lora(lora, comfy.lora.model_lora_keys_unet(low.model, {}))
    try:
        low.clone().add_hook_patches(hook, loaded)
    except Exception as error:
        found["hook"] = f"{type(error).__name__}: {error}"

    foreign = _foreign_unet()
    theirs = host.rebuild(foreign, lambda network: factorize.factorize(network, "rank", 4))
    wanted = output(theirs)
    kept = host.save_unet(theirs, Path(RESULT).parent / "foreign.safetensors", {})
    found["foreign"] = relative(output(host.load_unet(kept)), wanted)
    found["evaluates"] = host.evaluate(low, X)() is None
    Path(RESULT).write_text(json.dumps(found), encoding="utf-8")


def _weights(model: Any) -> list[tuple[str, torch.Tensor]]:
    state = model.model.state_dict()
    return [(key, tensor) for key, tensor in state.items() if key.startswith("diffusion_model.") and tensor.dim() in (2, 4)]


def _extra(module: str, name: str) -> Any:
    import importlib

    found_module = importlib.import_module(f"comfy_extras.{module}")
    return found_module.NODE_CLASS_MAPPINGS[name]


def _foreign_unet() -> Any:
    """A U-Net of Stable Diffusion 1.5's family, but narrow: a MODEL that is not ours."""
    import comfy.model_patcher

    config = comfy.supported_models.SD15(
        {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
            "transformer_depth": [1, 0], "transformer_depth_output": [1, 1, 0, 0], "transformer_depth_middle": 1, "context_dim": 32,
            "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": False, "adm_in_channels": None,
            "use_temporal_attention": False, "num_heads": 2, "num_head_channels": -1,
        }
    )  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    inner = config.get_model({}, "")
    torch.manual_seed(0)
    for parameter in inner.diffusion_model.parameters():
        parameter.data.normal_(std=0.05)
    return comfy.model_patcher.ModelPatcher(inner, torch.device("cpu"), torch.device("cpu"))


with torch.inference_mode():
    run()
