"""Runs inside a ComfyUI process and writes what it finds as JSON; started as inside.py says."""

from __future__ import annotations

import gc
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

from inside import FOLDER, MODELS, load_pack, relative, write

# isort: split
import comfy.cldm.cldm
import comfy.cli_args
import comfy.controlnet
import comfy.lora
import comfy.model_management as management
import comfy.ops
import comfy.samplers
import comfy.sd
import latent_preview
import probe_knowledge
import torch

import nodes

HEAVY = ("diffusers", "basicsr", "matplotlib", "accelerate")
found: dict[str, Any] = {}


def snapshot() -> dict[str, Any]:
    """Every attribute of every module and class of ComfyUI, and what its module-level lists and tables hold."""
    seen = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in ("comfy", "latent_preview", "execution", "server") or module is None:
            continue
        for key, value in list(vars(module).items()):
            if key.startswith("__") or isinstance(value, type(sys)):  # a package gains its submodules as they are imported
                continue
            seen[f"{name}.{key}"] = id(value)
            if isinstance(value, (list, tuple, dict, set)):
                seen[f"{name}.{key} holds"] = repr(sorted(map(str, value)))
            if isinstance(value, type) and value.__module__ == name:
                own = {attribute: id(v) for attribute, v in vars(value).items() if not attribute.startswith(("__", "_abc_"))}
                seen |= {f"{name}.{key}.{attribute}": where for attribute, where in own.items()}
                lists = {attribute: v for attribute, v in vars(value).items() if attribute in own and isinstance(v, (list, dict, set))}
                seen |= {f"{name}.{key}.{attribute} holds": repr(sorted(map(str, v))) for attribute, v in lists.items()}
    return seen


def differences(before: dict[str, Any]) -> list[str]:
    now = snapshot()
    ignored = ("comfy.model_management.current_loaded_models holds", "comfy.model_management.LORA_COMPUTE_DTYPES holds")
    changed = [key for key in before if now.get(key) != before[key] and not key.startswith(ignored)]
    return sorted(changed)


def run() -> None:
    before, modules = snapshot(), set(sys.modules)
    started = time.perf_counter()
    ours = load_pack()
    found["import_seconds"] = time.perf_counter() - started
    found["heavy"] = sorted({name.split(".")[0] for name in set(sys.modules) - modules} & set(HEAVY))
    found["changed_by_import"] = differences(before)

    host = ours("core.host").current()
    embedded = ours("core.host").Host("embedded")
    found["host"] = host.name
    requirements = ours("core.host.comfy.requirements")
    found["missing"] = requirements.missing()
    try:
        requirements.check_requirements(["comfy.sd:NotThere"])
    except Exception as error:
        found["missing_message"] = str(error)

    def paths(unet: str, text: str, vae: str) -> list[Path]:
        return [MODELS / f"{name}.safetensors" for name in (f"{unet}-unet", f"{text}-text", f"{vae}-vae")]

    found["parity"] = {}
    for unet, vae in (("tiny", "tiny"), ("eps", "attention"), ("x0", "tiny"), ("wide", "wide")):
        found["parity"][unet] = compare(host, embedded, paths(unet, "tiny", vae))
    (graph,) = nodes.NODE_CLASS_MAPPINGS["RapidDrawKnowledgeGraphLoader"]().execute("tiny-kg.safetensors")[:1]
    found["texts"] = compare_texts(host, embedded, graph, paths("tiny", "tiny", "tiny"))
    try:
        host.load_bundles(*paths("tiny", "other", "tiny"))
    except Exception as error:
        found["misfit"] = f"{type(error).__name__}: {error}"
    try:
        host.load_bundles(*paths("wide", "tiny", "tiny"))
    except Exception as error:
        found["misfit_vae"] = f"{type(error).__name__}: {error}"
    found["refused"] = refused(ours)
    found["saves_graphs"] = []
    for disabled in (False, True):
        comfy.cli_args.args.disable_metadata = disabled
        found["saves_graphs"].append(host.process.saves_graphs())
    comfy.cli_args.args.disable_metadata = False
    found["control"] = controlled(host, paths("tiny", "tiny", "tiny"))
    found["knowledge"] = probe_knowledge.check(host, ours, nodes.NODE_CLASS_MAPPINGS, FOLDER)
    found["samplers"] = every_sampler(host, paths("tiny", "tiny", "tiny"))
    found["twice_compiled"] = twice_compiled(host, ours, paths("tiny", "tiny", "tiny"))
    lifetime(host, paths("tiny", "tiny", "tiny"))
    interrupted(ours("core.progress"))
    found["changed_by_use"] = differences(before)


def compare(host: Any, embedded: Any, paths: list[Path]) -> dict[str, Any]:
    """The largest relative differences between the two hosts' objects."""
    model, clip, vae = host.load_bundles(*paths)
    plain, _, plain_vae = embedded.load_bundles(*paths)
    channels = model.get_model_object("latent_format").latent_channels
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, channels, 8, 8, generator=generator) * 4, torch.randn(2, 32, 32, generator=generator)
    sigma = torch.tensor([3.0, 0.5])
    management.load_models_gpu([model])
    latent, factor = x[:1] / 4, vae.downscale_ratio
    pixels = torch.rand(1, 8 * factor + 3, 8 * factor, 3, generator=generator)
    schedule = model.get_model_object("model_sampling")
    out = {
        "sigmas": relative(schedule.sigmas, plain.get_model_object("model_sampling").sigmas),
        "denoised": relative(model.model.apply_model(x, sigma, c_crossattn=context), plain.model.apply_model(x, sigma, context)),
        "latent_in": relative(model.model.process_latent_in(x), plain.model.process_latent_in(x)),
        "latent_out": relative(model.model.process_latent_out(x), plain.model.process_latent_out(x)),
        "decoded": relative(host.vae.decode(vae, latent), embedded.vae.decode(plain_vae, latent)),
        "encoded": relative(host.vae.encode(vae, pixels), embedded.vae.encode(plain_vae, pixels)),
    }
    format_ = model.get_model_object("latent_format")
    if format_.latent_rgb_factors is not None:
        previewer = latent_preview.Latent2RGBPreviewer(format_.latent_rgb_factors, format_.latent_rgb_factors_bias)
        found["preview_size"] = previewer.decode_latent_to_preview(x).size
    found["classes"] = [type(model.model).__name__, type(model.model.diffusion_model).__name__, type(vae).__name__, type(clip).__name__]
    return out


def compare_texts(host: Any, embedded: Any, graph: Any, paths: list[Path]) -> dict[str, Any]:
    _, clip, _ = host.load_bundles(*paths)
    _, plain, _ = embedded.load_bundles(*paths)
    texts = [
        "a round red fruit",
        "a (red fruit:1.4) on (a (green) hill), mirado",
        "a fruit, mirado and quelba " * 12,
        "",
        r"a \(red\) fruit",
    ]
    conds, pooled, linked = [], [], []
    for text in texts:
        for scale in (None, 0.0, 1.0):
            one = clip if scale is None else host.knowledge.attach(clip, graph, scale)
            two = plain if scale is None else embedded.knowledge.attach(plain, graph, scale)
            ((cond, more),) = host.clip.encode(one, text)
            ((other, others),) = embedded.clip.encode(two, text)
            conds.append(relative(cond, other))
            pooled.append(relative(more["pooled_output"], others["pooled_output"]))
            linked.append(repr(host.knowledge.encode_with_links(one, text)[1]) == repr(embedded.knowledge.encode_with_links(two, text)[1]))
    named = "a round red mirado"
    without = host.clip.encode(clip, named)[0][0]
    silent = host.clip.encode(host.knowledge.attach(clip, graph, 0.0), named)[0][0]
    spoken = host.clip.encode(host.knowledge.attach(clip, graph, 1.0), named)[0][0]
    skipped = host.knowledge.attach(clip, graph, 1.0)
    skipped.clip_layer(-2)
    encoder = plain.encoder
    ids = torch.tensor([[token for token, _ in clip.tokenize("a red fruit")["rapiddraw"][0]]])
    expected, _ = encoder.encode_embeddings(encoder.embed(ids), (ids == encoder.end_id).int().argmax(dim=1), layer=-2)
    shallow = clip.clone()
    shallow.clip_layer(-2)
    try:
        host.knowledge.attach(comfy.sd.CLIP(no_init=True), graph, 1.0)
    except Exception as error:
        found["foreign_clip"] = type(error).__name__
    return {
        "cond": max(conds),
        "pooled": max(pooled),
        "links": all(linked),
        "scale_0_is_plain": bool(torch.equal(without, silent)),
        "scale_1_changes": relative(spoken, without),
        "clip_skip": relative(host.clip.encode(shallow, "a red fruit")[0][0], expected),
        "clip_skip_with_knowledge": relative(host.clip.encode(skipped, named)[0][0], spoken),
    }


def refused(ours: Any) -> dict[str, str]:
    """What the host says of bundles that ComfyUI's networks cannot carry, or that lie."""
    bundle, model, vae = ours("core.bundles.format"), ours("core.host.comfy.model"), ours("core.host.comfy.vae")
    said = {}
    cases = {
        "groups": ("tiny-unet", model.load_model, {"norm_num_groups": 16}),
        "blocks": ("tiny-unet", model.load_model, {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}),
        "width": ("tiny-unet", model.load_model, {"block_out_channels": [32, 80]}),
        "lie": ("tiny-unet", model.load_model, {"layers_per_block": 2}),
        "huge": ("tiny-unet", model.load_model, {"block_out_channels": [32, 2**20]}),
        "nonsense": ("tiny-unet", model.load_model, {"layers_per_block": "many"}),
        "vae groups": ("tiny-vae", vae.load_vae, {"norm_num_groups": 8}),
        "vae lie": ("tiny-vae", vae.load_vae, {"layers_per_block": 2}),
        "vae space": ("tiny-vae", vae.load_vae, {"latent_channels": 8}),
    }
    for name, (file, load, change) in cases.items():
        read = ours("core.bundles.load").load_bundle(MODELS / f"{file}.safetensors")
        changed = bundle.Bundle(replace(read.info, config={**read.info.config, **change}), read.tensors)
        try:
            load(changed)
            said[name] = "accepted"
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def controlled(host: Any, paths: list[Path]) -> dict[str, float]:
    """How much a stock ControlNet of random weights, of our U-Net's shape, changes what the stock sampler makes, by strength."""
    model, clip, _ = host.load_bundles(*paths)
    shape = {
        key: value for key, value in model.model.model_config.unet_config.items() if key not in ("out_channels", "operations", "device")
    }
    shape |= {"dtype": torch.float32, "hint_channels": 3, "operations": comfy.ops.disable_weight_init}
    network = comfy.cldm.cldm.ControlNet(**shape)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    control = comfy.controlnet.ControlNet(network, load_device=management.get_torch_device())
    image = torch.rand(1, 64, 64, 3, generator=generator)
    texts = [host.clip.encode(clip, text) for text in ("a red fruit", "")]
    latent = {"samples": torch.zeros(1, 4, 8, 8)}

    def sampled(strength: float | None, end: float = 1.0) -> torch.Tensor:
        both = texts
        if strength is not None:
            both = nodes.ControlNetApplyAdvanced().apply_controlnet(*texts, control, image, strength, 0.0, end)
        return nodes.common_ksampler(model, 1, 3, 3.0, "euler", "normal", *both, latent)[0]["samples"]

    plain = sampled(None)
    runs = {
        "strength 1": sampled(1.0),
        "strength 0.5": sampled(0.5),
        "strength 0": sampled(0.0),
        "never": sampled(1.0, 0.0),
        "after": sampled(None),
    }
    return {name: relative(samples, plain) for name, samples in runs.items()}


def every_sampler(host: Any, paths: list[Path]) -> dict[str, str]:
    """What a short walk by each name that the host lists makes: "finite", or what is wrong."""
    model, clip, _ = host.load_bundles(*paths)
    prompts = [host.clip.encode(clip, text) for text in ("a red fruit", "")]
    said = {}
    for name in host.sampling.sampler_names():
        try:
            sigmas = host.sampling.calculate_sigmas(model, "normal", 3, name)
            drawn = host.sampling.sample_custom(
                host.sampling.make_guider(model, *prompts, 2.0),
                host.sampling.named_sampler(name),
                sigmas,
                {"samples": torch.zeros(1, 4, 4, 4)},
                5,
            )
            said[name] = "finite" if bool(drawn["samples"].isfinite().all()) else "not finite"
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def twice_compiled(host: Any, ours: Any, paths: list[Path]) -> dict[str, Any]:
    """A model that went through our Compile and through what ComfyUI's TorchCompileModel does, in either order: the picture, the report."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    parts, options = ours("core.operations.compile"), ours("core.speed.plan").Options("auto", "at once", 60.0)
    model, clip, _ = host.load_bundles(*paths)
    prompts = [host.clip.encode(clip, text) for text in ("a red fruit", "")]
    run = ours("core.host").SamplingRun(5, 3, "euler", "normal")

    def drawn(one: Any) -> torch.Tensor:
        return host.sampling.sample(host.sampling.make_guider(one, *prompts, 2.0), {"samples": torch.zeros(1, 4, 4, 4)}, run)["samples"]

    plain = drawn(model)
    said: dict[str, Any] = {}
    for order in ("ours first", "torch's first"):
        both = parts.speed_up({"model": model}, options)["model"] if order == "ours first" else model.clone()
        set_torch_compile_wrapper(both, backend="eager")
        if order != "ours first":
            both = parts.speed_up({"model": both}, options)["model"]
        said[order] = {"apart": relative(drawn(both), plain), "report": parts.report_of(both)}
    return said


def lifetime(host: Any, paths: list[Path]) -> None:
    """A patched clone leaves its source alone; unloading everything frees the models."""
    model, clip, vae = host.load_bundles(*paths)
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 32, 32, generator=generator)
    sigma = torch.tensor([1.0])

    def denoised(patcher: Any) -> torch.Tensor:
        management.load_models_gpu([patcher])
        return patcher.model.apply_model(x, sigma, c_crossattn=context).clone()

    plain = denoised(model)
    patched = model.clone()
    key = next(key for key in patched.model_state_dict() if key.endswith("attn2.to_k.weight"))
    weight = patched.model_state_dict()[key]
    patched.add_patches({key: (torch.randn(weight.shape, generator=generator),)}, 1.0)
    found["patch_changes"] = relative(denoised(patched), plain)
    found["source_unchanged"] = bool(torch.equal(denoised(model), plain))
    host.clip.encode(clip, "a red fruit")
    host.vae.decode(vae, x)
    found["managed"] = sorted(type(one.model.model).__name__ for one in management.current_loaded_models)
    alive = [weakref.ref(model.model), weakref.ref(clip.cond_stage_model), weakref.ref(vae.first_stage_model)]
    management.unload_all_models()
    found["after_unload"] = len(management.current_loaded_models)
    del model, patched, clip, vae
    management.cleanup_models_gc()
    gc.collect()
    found["still_alive"] = sum(one() is not None for one in alive)


def interrupted(progress: Any) -> None:
    """ComfyUI's cancel reaches a bar of ours."""
    management.interrupt_current_processing(False)
    with progress.Progress(10, "test") as bar:
        bar.update()
        management.interrupt_current_processing(True)
        try:
            bar.update()
        except BaseException as error:
            found["interrupt"] = type(error).__name__
    management.interrupt_current_processing(False)


with torch.inference_mode():
    run()
write(found)
