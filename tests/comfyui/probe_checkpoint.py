"""Checkpoints as ComfyUI loads them and as the embedded host does, compared; started as inside.py says.

MODELS holds `sd15.safetensors`, which the stock loader reads, and `sdxl.safetensors`, whose U-Net and text
encoders are too narrow for the stock loader to recognise and are handed to ComfyUI's own classes directly.
"""

from __future__ import annotations

from typing import Any

from inside import MODELS, load_pack, relative, write

# isort: split
import comfy.model_detection
import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch

import nodes

TEXTS = (
    "a round red fruit",
    "a (red fruit:1.4) on (a (green) hill), 2 photos",
    "a very long prompt about fruits, hills and the sky, " * 12,
    "",
    r"a \(red\) fruit, caf\u00e9",
)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a.float() - b.float()).pow(2).mean().clamp(min=1e-12)))


def run() -> dict[str, Any]:
    ours = load_pack()
    load = ours("core.host.embedded.checkpoint").load_checkpoint
    package = ours("core.host")
    folder_paths.add_model_folder_path("checkpoints", str(MODELS))
    found = {}
    for name, native in (("sd15", nodes.CheckpointLoaderSimple().load_checkpoint), ("sdxl", native_sdxl)):
        found[name] = compare(native(f"{name}.safetensors"), load(MODELS / f"{name}.safetensors", torch.device("cpu")), package)
    return found


def native_sdxl(name: str) -> tuple[Any, Any, Any]:
    """ComfyUI's SDXL from a narrow file: what `load_state_dict_guess_config` does, with the narrow text encoders' sizes told."""
    tensors = comfy.utils.load_torch_file(str(MODELS / name))
    prefix = "model.diffusion_model."
    config = comfy.supported_models.SDXL(comfy.model_detection.detect_unet_config(tensors, prefix))
    config.set_inference_dtype(torch.float32, None)
    text = config.process_clip_state_dict(dict(tensors))
    sizes = {"clip_l_model_config": (64, 1, 3), "clip_g_model_config": (128, 2, 3)}
    options: dict[str, Any] = {
        key: {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers, "intermediate_size": 4 * width}
        for key, (width, heads, layers) in sizes.items()
    }
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    clip = comfy.sd.CLIP(target, tokenizer_data=text, parameters=1, state_dict=text, model_options={**options, "dtype": torch.float32})
    vae = comfy.sd.VAE(sd=config.process_vae_state_dict(comfy.utils.state_dict_prefix_replace(tensors, {"first_stage_model.": ""}, True)))
    model = config.get_model(tensors, prefix)
    model.load_model_weights(dict(tensors), prefix)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu), clip, vae


def compare(native: tuple[Any, Any, Any], plain: tuple[Any, Any, Any], package: Any) -> dict[str, Any]:
    """The largest relative differences between ComfyUI's objects and the embedded host's."""
    (model, clip, vae), (other, other_clip, other_vae) = native[:3], plain
    generator = torch.Generator().manual_seed(0)
    texts = compare_texts(clip, other_clip)
    sigmas = model.get_model_object("model_sampling").sigmas
    latent, pixels = torch.randn(1, 4, 4, 6, generator=generator), torch.rand(1, 32, 40, 3, generator=generator)
    out = {
        **texts,
        "sigmas": relative(sigmas, other.get_model_object("model_sampling").sigmas),
        "latent": relative(model.model.process_latent_in(latent), other.model.process_latent_in(latent)),
        "decoded": relative(vae.decode(latent), other_vae.decode(latent)),
        "encoded": relative(vae.encode(pixels), other_vae.encode(pixels)),
    }
    conds = [[one.encode_from_tokens_scheduled(one.tokenize(text)) for text in (TEXTS[1], "")] for one in (clip, other_clip)]
    empty = {"samples": torch.zeros(2, 4, 6, 8)}
    (drawn,) = nodes.common_ksampler(model, 5, 3, 4.0, "euler", "normal", *conds[0], dict(empty))
    sampling, run = package.Host("embedded").sampling, package.SamplingRun(5, 3, "euler", "normal")
    again = sampling.sample(sampling.make_guider(other, *conds[1], 4.0), dict(empty), run)
    out["drawn"] = relative(drawn["samples"], again["samples"])
    image = vae.decode(drawn["samples"])
    return {**out, "psnr": psnr(image, other_vae.decode(again["samples"])), "spread": float(image.std())}


def compare_texts(clip: Any, other: Any) -> dict[str, Any]:
    same_rows, cond, pooled, skipped = [], [], [], []
    for text in TEXTS:
        rows, other_rows = clip.tokenize(text), other.tokenize(text)
        same_rows.append({key: [[tuple(token[:2]) for token in row] for row in rows[key]] for key in rows} == other_rows)
        ((one, details),) = clip.encode_from_tokens_scheduled(rows)
        ((two, other_details),) = other.encode_from_tokens_scheduled(other_rows)
        cond.append(relative(one, two))
        pooled.append(relative(details["pooled_output"], other_details["pooled_output"]))
    for layer in (-1, -2, -24):
        one, two = clip.clone(), other.clone()
        one.clip_layer(layer)
        two.clip_layer(layer)
        text = TEXTS[1]
        skipped.append(relative(one.encode_from_tokens(one.tokenize(text)), two.encode_from_tokens(two.tokenize(text))[0]))
    return {"rows": all(same_rows), "cond": max(cond), "pooled": max(pooled), "clip_skip": max(skipped)}


with torch.inference_mode():
    management.unload_all_models()
    write(run())
