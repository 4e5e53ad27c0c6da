"""Low-rank MODELs of every family inside a ComfyUI process; started as inside.py says.

WORDS: the families to try, or "not" and those to leave (default: all).
"""

from __future__ import annotations

import traceback
from typing import Any

from inside import RESULT, WORDS, load_pack, relative, write

# isort: split
import comfy.lora
import comfy.sd
import families
import torch
from comfy import model_management as management

import nodes


def drawn(model: Any, name: str) -> torch.Tensor:
    """One step of the stock KSampler from a random picture, without guidance: one evaluation."""
    texts = [families.conditioning(name, seed=seed) for seed in (1, 2)]
    return nodes.common_ksampler(model, 1, 1, 1.0, "euler", "simple", *texts, families.latent(name, seed=3), denoise=0.5)[0]["samples"]


def loras(model: Any) -> dict[str, dict[str, torch.Tensor]]:
    """LoRAs for every weight of `model` that has two dimensions or more, by key layout: the part of a key before the layer's name.

    Each layout that ComfyUI reads for this family is one LoRA; layers of one layout that share a weight have each their part of it."""
    generator, made = torch.Generator().manual_seed(9), {}
    state = model.model.state_dict()
    for name, target in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        key, offset = (target, None) if isinstance(target, str) else (target[0], target[1])
        weight = state.get(key)
        if weight is None or weight.dim() not in (2, 4) or not key.endswith(".weight") or name.endswith((".weight", ".bias")):
            continue
        shape = list(weight.shape)
        if offset is not None:
            if offset[1] + offset[2] > shape[offset[0]]:
                continue  # ComfyUI's names for Flux take its feed-forward to be four times as wide as its tokens
            shape[offset[0]] = offset[2]
        down = torch.randn(2, *shape[1:], generator=generator) * 0.3
        up = torch.randn(shape[0], 2, *[1] * (len(shape) - 2), generator=generator) * 0.3
        made.setdefault(layout_of(name, key), {}).update(
            {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0)}
        )
    return made


def layout_of(name: str, key: str) -> str:
    words = (
        "lora_unet_",
        "lycoris_",
        "lora_transformer_",
        "lora_prior_unet_",
        "transformer.",
        "base_model.model.",
        "unet.",
        "diffusion_model.",
    )
    start = next((word for word in words if name.startswith(word)), "")
    plain = key.removeprefix("diffusion_model.").removesuffix(".weight")
    rest = name.removeprefix(start)
    return f"{start}{'*' if rest in (plain, plain.replace('.', '_')) else '* (other names)'}"


def run() -> None:
    ours = load_pack()
    host = ours("core.host").current()
    factorize, layers, roles = ours("core.lowrank.factorize"), ours("core.lowrank.layers"), ours("core.lowrank.roles")
    svd, plan = ours("core.lowrank.svd"), ours("core.lowrank.plan")
    node = nodes.NODE_CLASS_MAPPINGS["RapidDrawFactorizeUNet"]

    def at_full_rank(network: Any) -> None:
        for name, _, layer in list(plan.targeted(network, tuple(roles.TARGETS))):
            spectrum = svd.Spectrum.of(layer.weight)
            factorize.put_factors(network, name, spectrum.factors(len(spectrum.s)))

    def one(name: str) -> dict[str, Any]:
        said: dict[str, Any] = {}
        dense = families.model(name)
        before = drawn(dense, name)
        said["finite"] = bool(before.isfinite().all())
        full = host.surgery.rebuild(dense, at_full_rank)
        said["full rank"] = relative(drawn(full, name), before)
        low, report, plot = node().execute(
            dense, "rank", 4, "symmetric", "off", True, True, True, True, families.latent(name), True, families.conditioning(name)
        )
        said["report"] = report
        said["roles"] = sorted({role for role, _ in roles_of(low, layers, roles)})
        said["shared"] = shared(dense, low)
        drawn_low = drawn(low, name)
        said["low differs"] = relative(drawn_low, before)
        said["source unchanged"] = bool(torch.equal(drawn(dense, name), before))
        flat = host.surgery.rebuild(low, factorize.merge_back)
        drawn_flat = drawn(flat, name)
        said["merged back"] = relative(drawn_low, drawn_flat)
        said["loras"] = {}
        for layout, lora in loras(flat).items():
            both = [comfy.sd.load_lora_for_models(model, None, dict(lora), 0.8, 0)[0] for model in (low, flat)]
            outputs = [drawn(model, name) for model in both]
            said["loras"][layout] = [relative(*outputs), relative(outputs[1], drawn_flat), len(both[0].patches), ranks(both[0], layers)]
        if not host.surgery.check_evaluation(dense, families.conditioning(name)) and not families.FAMILIES[name].unet_blocks:
            try:
                node().execute(dense, "rank", 4, "paper", "off", True, True, True, True, families.latent(name))
                said["refused"] = "no"
            except Exception as error:
                said["refused"] = f"{type(error).__name__}: {error}"
        saved = host.model.save(low, RESULT.parent / "low.safetensors", {"recipe": "test"})
        said["reloaded"] = relative(drawn(host.model.load(saved), name), drawn_low)
        kept = host.model.save(dense, RESULT.parent / "dense.safetensors", {"recipe": "test"})
        said["dense reloaded"] = relative(drawn(host.model.load(kept), name), before)
        return said

    found: dict[str, Any] = {}
    for name in families.available():
        if WORDS and (name in WORDS) == (WORDS[0] == "not"):
            continue
        try:
            found[name] = one(name)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[:600], "trace": traceback.format_exc()[-3000:]}
        management.unload_all_models()
    write(found)


def roles_of(model: Any, layers: Any, roles: Any) -> list[tuple[str, str]]:
    network = model.model.diffusion_model
    return [(roles.role_of(name), name) for name, layer in network.named_modules() if isinstance(layer, layers.FACTORED)]


def shared(dense: Any, low: Any) -> float:
    """The share of the dense model's memory that the low-rank one uses too, of what it could."""
    places = {weight.data_ptr() for weight in dense.model.parameters()}
    rest = [weight for name, weight in low.model.named_parameters() if not name.endswith((".a.weight", ".b.weight", ".a.bias"))]
    return sum(weight.data_ptr() in places for weight in rest) / max(len(rest), 1)


def ranks(model: Any, layers: Any) -> int:
    """The number of factored layers that a patch has made larger than a LoRA of rank 2 does."""
    patches = model.patches
    big = 0
    for name, layer in model.model.diffusion_model.named_modules():
        if isinstance(layer, layers.FACTORED):
            added = sum(patch[1].tensor.shape[0] for patch in patches.get(f"diffusion_model.{name}.b.weight", []))
            big += added > 6
    return big


with torch.inference_mode():
    run()
with torch.inference_mode():
    run()
