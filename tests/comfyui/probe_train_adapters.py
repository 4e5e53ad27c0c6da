"""Training of adapters inside a ComfyUI process, for MODELs of SD 1.5's and SDXL's shape; started as inside.py says."""

from __future__ import annotations

import json
from typing import Any

from inside import COMFYUI, FOLDER, MODELS, load_pack, relative, write

# isort: split
import comfy.clip_vision
import comfy.model_patcher
import comfy.sd1_clip
import comfy.supported_models
import families
import torch
from families import Texts
from models import CPU, sd15_unet

import nodes

found: dict[str, Any] = {"comfyui": COMFYUI.name}
SETTINGS = {
    "folder": "fruit", "filename": "tuned", "steps": 3, "batch_size": 2, "lr": 0.05, "size": 64, "prompts": "a red fruit", "seed": 0,
    "resume": False,
}  # fmt: skip
KRONECKER = {"rank": 2, "layers": "all"}
TOKENS = {"tokens": 3, "hidden": 16, "reading": 2, "tower_name": "(the linked clip_vision)"}
CONTROL = {"conditions": "edges, sketch", "maps": "drawn from the pictures", "format": "lowrank", "ratio": 0.5}


def sdxl_unet() -> Any:
    """A MODEL of SDXL's family with random weights: `y` beside the tokens."""
    shape = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
        "transformer_depth": [0, 2], "transformer_depth_output": [0, 0, 2, 2], "transformer_depth_middle": 2, "context_dim": 32,
        "num_head_channels": 16, "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": True,
        "adm_in_channels": 32 + 6 * 256, "num_classes": "sequential", "use_temporal_attention": False,
    }  # fmt: skip
    config = comfy.supported_models.SDXL(shape)
    config.unet_config |= shape
    inner = config.get_model({}, "")
    generator = torch.Generator().manual_seed(0)
    for parameter in inner.diffusion_model.parameters():
        parameter.data.normal_(std=0.05, generator=generator)
    return comfy.model_patcher.ModelPatcher(inner, CPU, CPU)


def with_pooled(clip: Any) -> Any:
    """The CLIP with a pooled state of 32 features."""
    texts = Texts("")
    texts.encode_from_tokens_scheduled = lambda text, **_: [
        [tokens, {**more, "pooled_output": tokens.mean(1)}] for tokens, more in nodes.CLIPTextEncode().encode(clip, text)[0]
    ]
    return texts


def texts_of(clip: Any) -> list[Any]:
    encode = getattr(clip, "encode_from_tokens_scheduled", None)
    return [encode(text) if isinstance(clip, Texts) else nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a red fruit", "")]


def sampled(model: Any, prompts: list[Any]) -> torch.Tensor:
    latent = nodes.EmptyLatentImage().generate(64, 64, 1)[0]
    return nodes.common_ksampler(model, 1, 3, 2.0, "euler", "normal", *prompts, latent)[0]["samples"]


def refused(run: Any) -> str:
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it ran"


def kronecker(parts: Any, graph: Any, files: Any) -> dict[str, Any]:
    train, load = (nodes.NODE_CLASS_MAPPINGS[f"RapidDraw{name}"] for name in ("TrainKroneckerAdapter", "KroneckerAdapterLoader"))
    model, clip, _ = parts
    prompts = texts_of(clip)
    before = sampled(model, prompts)

    def trained(seed: int = 0) -> Any:
        return train().execute(*parts, **{**SETTINGS, **KRONECKER, "seed": seed}, prompt=graph, unique_id="6")["result"]

    made, report, _, samples = trained()
    first = (files / "tuned.safetensors").read_bytes()
    loaded = sampled(load().execute(model, "tuned.safetensors", 1.0)[0], prompts)
    off = load().execute(model, "tuned.safetensors", 0.0)[0]
    trained()
    again = (files / "tuned.safetensors").read_bytes() == first
    return {
        "changes": relative(loaded, before), "as_returned": relative(sampled(made, prompts), loaded), "same_file": again,
        "off": bool(torch.equal(sampled(off, prompts), before)), "unchanged": bool(torch.equal(sampled(model, prompts), before)),
        "report": report, "samples": list(samples.shape),
    }  # fmt: skip


def control(parts: Any, graph: Any, files: Any) -> dict[str, Any]:
    pick = [f"RapidDraw{name}" for name in ("TrainControlAdapter", "ControlAdapterLoader", "ControlAdapterApply")]
    train, load, apply_ = (nodes.NODE_CLASS_MAPPINGS[name] for name in pick)
    model, clip, _ = parts
    prompts = texts_of(clip)
    before = sampled(model, prompts)
    edges = torch.zeros(1, 64, 64, 3)
    edges[:, 20:40, 30] = 1

    def trained() -> Any:
        return train().execute(*parts, **{**SETTINGS, **CONTROL}, prompt=graph, unique_id="6")["result"]

    net, report, _, samples = trained()
    first = (files / "tuned.safetensors").read_bytes()
    loaded = load().execute("tuned.safetensors", "edges")[0]

    def drawn(control_net: Any, strength: float) -> torch.Tensor:
        guided = apply_().execute(*prompts, control_net, strength, 0.0, 1.0, edges=edges)
        return sampled(model, list(guided))

    by_file = drawn(loaded, 1.0)
    trained()
    again = (files / "tuned.safetensors").read_bytes() == first
    return {
        "changes": relative(by_file, before), "as_returned": relative(drawn(net, 1.0), by_file), "same_file": again,
        "off": bool(torch.equal(drawn(loaded, 0.0), before)), "unchanged": bool(torch.equal(sampled(model, prompts), before)),
        "report": report, "samples": list(samples.shape),
    }  # fmt: skip


def clip_vision(seed: int, width: int = 24) -> Any:
    """ComfyUI's CLIP_VISION with a small random network that gives `width` features."""
    config = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
        "hidden_act": "quick_gelu", "num_channels": 3, "projection_dim": width, "model_type": "clip_vision_model",
    }  # fmt: skip
    path = FOLDER / "vision.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    made = comfy.clip_vision.ClipVisionModel(str(path))
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return made


def tokens(parts: Any, graph: Any, files: Any) -> dict[str, Any]:
    train, encode = (nodes.NODE_CLASS_MAPPINGS[f"RapidDraw{name}"] for name in ("TrainImageTokens", "ImageVariationEncode"))
    model, clip, _ = parts
    prompts, vision = texts_of(clip), clip_vision(0)
    before = sampled(model, prompts)
    picture = torch.rand(1, 48, 40, 3, generator=torch.Generator().manual_seed(3))

    def trained() -> Any:
        return train().execute(*parts, **{**SETTINGS, **TOKENS}, clip_vision=vision, prompt=graph, unique_id="6")["result"]

    name, report, _, samples = trained()
    first = (files / "tuned.safetensors").read_bytes()

    def drawn(strength: float, reader: Any) -> torch.Tensor:
        given = {"tokens_name": name, "tower_name": "tiny-image.safetensors", "conditioning": prompts[0], "model": model}
        return sampled(model, [encode().execute(picture, **given, strength=strength, clip_vision=reader)[0], prompts[1]])

    by_file, off = drawn(10.0, vision), drawn(0.0, vision)  # a random network hardly hears a few tokens at strength 1
    trained()
    again = (files / "tuned.safetensors").read_bytes() == first
    return {
        "changes": relative(by_file, before), "same_file": again, "off": bool(torch.equal(off, before)),
        "unchanged": bool(torch.equal(sampled(model, prompts), before)), "report": report, "samples": list(samples.shape),
        "other": refused(lambda: drawn(1.0, clip_vision(1))), "wider": refused(lambda: drawn(1.0, clip_vision(0, 40))),
    }  # fmt: skip


class SmallEncoder(comfy.sd1_clip.SDClipModel):
    """CLIP's text encoder of 32 features, as Flux and SD 3 make theirs: the pooled state is not projected."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        config = {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 77,
            "vocab_size": 49408, "hidden_act": "quick_gelu", "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 1,
            "layer_norm_eps": 1e-5, "projection_dim": 32, "model_type": "clip_text_model", "torch_dtype": "float32",
        }  # fmt: skip
        super().__init__(
            device=device,
            dtype=torch.float32,
            textmodel_json_config=config,
            return_projected_pooled=False,
            model_options=model_options or {},
        )


def beside_pictures(read: Any) -> dict[str, Any]:
    """What `read` gives for texts of a small random CLIP, and what it says of another width."""
    network = comfy.sd1_clip.SD1ClipModel(device="cpu", dtype=torch.float32, clip_model=SmallEncoder)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    clip = Texts("")
    clip.cond_stage_model, clip.patcher = network, comfy.model_patcher.ModelPatcher(network, CPU, CPU)
    clip.tokenize = comfy.sd1_clip.SD1Tokenizer().tokenize_with_weights
    clip.load_model = lambda *_: clip.patcher
    made = read(clip, ["a red picture", "a blue picture"], 32)
    pooled = network.encode_token_weights(clip.tokenize("a red picture"))[1]
    wanted = network.clip_l.transformer.text_projection(pooled)
    return {
        "shape": list(made.shape), "projected": relative(made[:1], wanted), "changed": relative(made[:1], pooled),
        "left": network.clip_l.return_projected_pooled, "wider": refused(lambda: read(clip, ["x"], 40)),
    }  # fmt: skip


def run() -> None:
    ours = load_pack()
    host = ours("core.host").current()
    ours("core.orchard.dataset").write_dataset("train", 4, 64, FOLDER / "input" / "fruit")
    _, clip, vae = host.load_bundles(*(MODELS / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))
    files = FOLDER / "output" / "rapiddraw"
    graph = {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
        "6": {"class_type": "Trainer", "inputs": {"model": ["4", 0], "clip": ["4", 1], "vae": ["4", 2], "clip_vision": ["4", 1]}},
    }
    workflow = host.process.workflow_folder() / "tuned.json"
    kinds = {"kronecker": kronecker, "control": control, "tokens": tokens}
    for name, parts in {"SD 1.5": (sd15_unet(), clip, vae), "SDXL": (sdxl_unet(), with_pooled(clip), vae)}.items():
        for kind, trained in kinds.items():
            found[f"{kind} {name}"] = trained(parts, graph, files)
            found[f"workflow of {kind}"] = sorted(node["type"] for node in json.loads(workflow.read_text(encoding="utf-8"))["nodes"])
            for path in (files / "tuned.safetensors", workflow):
                path.unlink()
    found["beside"] = beside_pictures(host.clip.beside_pictures)
    flux = (families.model("Flux"), Texts("Flux"), families.vae("Flux"))
    node = nodes.NODE_CLASS_MAPPINGS["RapidDrawTrainControlAdapter"]
    found["refused"] = refused(lambda: node().execute(*flux, **{**SETTINGS, **CONTROL}))
    arguments = ours("core.host.comfy.unet")
    found["config"] = []
    for model in (sd15_unet(), sdxl_unet()):
        told = model.model.model_config.unet_config
        config = arguments.diffusers_config(told)
        back = ours("core.host.comfy.control").encoder_arguments(ours("core.bundles.format").BundleInfo("unet", config))
        names = ("model_channels", "channel_mult", "num_res_blocks", "transformer_depth", "transformer_depth_middle", "context_dim")
        found["config"].append(all(list_of(back[name]) == list_of(told[name]) for name in names))
    write(found)


def list_of(value: Any) -> Any:
    return [float(one) for one in value] if isinstance(value, list | tuple) else value


with torch.inference_mode():
    run()
