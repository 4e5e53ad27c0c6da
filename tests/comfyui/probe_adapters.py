"""Kronecker adapters and image prompts inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

from typing import Any

from inside import MODELS, RESULT, load_pack, relative, write

# isort: split
import comfy.sd
import torch
from models import output

import nodes

found: dict[str, Any] = {}


def run() -> None:
    ours = load_pack()
    host, weights = ours("core.host").current(), MODELS
    loader = nodes.NODE_CLASS_MAPPINGS["RapidDrawKroneckerAdapterLoader"]()
    model = host.model.load(weights / "tiny-unet.safetensors")
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
    names = {name: key for name, key in ours("core.host.comfy.surgery")._keys(model).items() if name in deltas}

    def merge(network: Any) -> None:
        kronecker.add_deltas(network, {names[n].removeprefix("diffusion_model.").removesuffix(".weight"): d for n, d in deltas.items()})

    found["merge_is_exact"] = relative(output(host.surgery.rebuild(model, merge)), output(one))
    saved = host.model.save(one, RESULT.parent / "saved.safetensors", {"recipe": "test"})
    found["saved"] = relative(output(host.model.load(saved)), output(one))

    factorize = ours("core.lowrank.factorize")
    low = host.surgery.rebuild(model, lambda network: factorize.factorize(network, "param_ratio", 0.7))
    flat = host.surgery.rebuild(low, factorize.merge_back)
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
        adapted(host.model.load(weights / "x0-unet.safetensors"), 1.0)
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
    write(found)


with torch.inference_mode():
    run()
