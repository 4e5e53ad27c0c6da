"""Kronecker adapters and image prompts inside a ComfyUI process: `probe_adapters.py COMFYUI FOLDER WEIGHTS RESULT`, like probe.py."""

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

import comfy.model_management as management  # noqa: E402
import comfy.sd  # noqa: E402
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
    tokens = torch.randn(2, 7, inner.model_config.unet_config["context_dim"], generator=torch.Generator().manual_seed(4))
    try:
        return inner.apply_model(X, inner.model_sampling.sigma(torch.tensor([300.0, 700.0])), c_crossattn=tokens).clone()
    finally:
        if lowvram:
            model.unpatch_model()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def run() -> None:
    found["loaded"] = bool(asyncio.run(nodes.load_custom_node(str(Path(FOLDER) / "rapiddraw"))))
    package = next(name for name in sys.modules if name.endswith("custom_nodes.rapiddraw") or name.endswith("rapiddraw"))
    import importlib

    def ours(path: str) -> Any:
        return importlib.import_module(f"{package}.{path}")

    host, weights = ours("core.host").current(), Path(WEIGHTS)
    loader = nodes.NODE_CLASS_MAPPINGS["RapidDrawKroneckerAdapterLoader"]()
    model = host.load_unet(weights / "tiny-unet.safetensors")
    before = output(model)

    def adapted(given: Any, strength: float) -> Any:
        return loader.execute(given, "tiny-adapter.safetensors", strength)[0]

    one = adapted(model, 1.0)
    found["strength_0_is_the_model"] = adapted(model, 0.0) is model
    found["changes"] = relative(output(one), before)
    found["source_unchanged"] = bool(torch.equal(output(model), before))
    found["twice_half_is_one"] = relative(output(adapted(adapted(model, 0.5), 0.5)), output(one))
    found["there_and_back"] = relative(output(adapted(one, -1.0)), before)
    found["lowvram"] = relative(output(one, lowvram=True), output(one))

    adapter, kronecker = ours("core.lowrank.adapter"), ours("core.lowrank.kronecker")
    updates = adapter.load_adapter(weights / "tiny-adapter.safetensors")
    deltas = {name: kronecker.materialize(*update) for name, update in updates.items()}
    names = {name: key for name, key in ours("core.host.comfy_weights")._keys(model).items() if name in deltas}

    def merge(network: Any) -> None:
        kronecker.add_deltas(network, {names[n].removeprefix("diffusion_model.").removesuffix(".weight"): d for n, d in deltas.items()})

    found["merge_is_exact"] = relative(output(host.rebuild(model, merge)), output(one))
    saved = host.save_unet(one, Path(RESULT).parent / "saved.safetensors", {"recipe": "test"})
    found["saved"] = relative(output(host.load_unet(saved)), output(one))

    factorize = ours("core.lowrank.factorize")
    low = host.rebuild(model, lambda network: factorize.factorize(network, "param_ratio", 0.7))
    flat = host.rebuild(low, factorize.merge_back)
    found["on_low_rank"] = relative(output(adapted(low, 0.7)), output(adapted(flat, 0.7)))
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    key = keys["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"]
    width = model.model.state_dict()[key].shape[0]
    half = torch.randn(2, width, generator=torch.Generator().manual_seed(1)) * 0.3
    lora = {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight": half,
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight": half.T.contiguous(),
    }
    first = comfy.sd.load_lora_for_models(one, None, lora, 0.5, 0)[0]
    second = adapted(comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)[0], 1.0)
    found["with_a_lora_in_any_order"] = relative(output(first), output(second))
    try:
        adapted(host.load_unet(weights / "x0-unet.safetensors"), 1.0)
    except Exception as error:
        found["other_model"] = f"{type(error).__name__}: {error}"

    encode_variation = ours("core.text.image_tokens").encode_variation
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(2))
    text = [[torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(5)), {}]]
    files = (weights / "tiny-image_tokens.safetensors", weights / "tiny-image.safetensors")
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    pictures = []
    for given in (None, text):
        prompt = encode_variation(image, *files, 1.0, given)
        pictures.append(nodes.common_ksampler(model, 1, 2, 3.0, "euler", "normal", prompt, text, latent)[0]["samples"])
    plain = nodes.common_ksampler(model, 1, 2, 3.0, "euler", "normal", text, text, latent)[0]["samples"]
    found["prompted"] = [bool(p.isfinite().all()) and not torch.equal(p, plain) for p in pictures]

    class Vision:
        def encode_image(self, image: Any) -> dict[str, torch.Tensor]:
            return {"image_embeds": torch.ones(1, 1024)}

    try:
        encode_variation(image, *files, 1.0, None, Vision())
    except Exception as error:
        found["clip_vision"] = f"{type(error).__name__}: {error}"
    Path(RESULT).write_text(json.dumps(found), encoding="utf-8")


with torch.inference_mode():
    run()
