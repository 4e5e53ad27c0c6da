"""Training of LoRAs inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

import json
from typing import Any

from inside import COMFYUI, FOLDER, MODELS, load_pack, relative, write

# isort: split
import comfyui_version
import families
import torch
from families import Texts, drawn
from models import sd15_unet

import nodes

found: dict[str, Any] = {"comfyui": COMFYUI.name, "version": comfyui_version.__version__}
SETTINGS = {
    "folder": "fruit", "filename": "tuned", "steps": 3, "batch_size": 2, "lr": 0.2, "rank": 2, "layers": "all", "size": 64,
    "prompts": "a red fruit", "seed": 0, "alpha": 2.0, "save_every": 500, "resume": False,
}  # fmt: skip


def sampled(model: Any, clip: Any) -> torch.Tensor:
    encode = nodes.CLIPTextEncode().encode
    latent = nodes.EmptyLatentImage().generate(64, 64, 1)[0]
    texts = [encode(clip, text)[0] for text in ("a red fruit", "")]
    return nodes.common_ksampler(model, 1, 3, 2.0, "euler", "normal", *texts, latent)[0]["samples"]


def wide(clip: Any) -> Any:
    """A CLIP whose tokens are twice as wide."""
    texts = Texts("")
    texts.encode_from_tokens_scheduled = lambda text, **_: [
        [torch.cat([one, one], dim=-1), more] for one, more in nodes.CLIPTextEncode().encode(clip, text)[0]
    ]
    return texts


def run() -> None:
    ours = load_pack()
    node = nodes.NODE_CLASS_MAPPINGS["RapidDrawTrainDomainModel"]
    host = ours("core.host").current()
    ours("core.orchard.dataset").write_dataset("train", 12, 64, FOLDER / "input" / "fruit")
    _, clip, vae = host.load_bundles(*(MODELS / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))
    loras = FOLDER / "output" / "loras"
    nodes.folder_paths.add_model_folder_path("loras", str(loras))  # as ComfyUI's own start does
    graph = {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
        "6": {"class_type": "RapidDrawTrainDomainModel", "inputs": {"model": ["4", 0], "clip": ["4", 1], "vae": ["4", 2]}},
    }

    def trained(model: Any, texts: Any, pictures: Any, **changes: Any) -> Any:
        return node().execute(model, texts, pictures, **{**SETTINGS, **changes}, prompt=graph, unique_id="6")["result"]

    def checked(model: Any, texts: Any, pictures: Any, draw: Any) -> dict[str, Any]:
        before = draw(model)
        made, _, report, _, samples = trained(model, texts, pictures)
        stock = nodes.LoraLoader().load_lora(model, None, "tuned.safetensors", 1.0, 0.0)[0]
        first = (loras / "tuned.safetensors").read_bytes()
        trained(model, texts, pictures)
        left = [name for name, module in host.speed.network_of("model", model).named_modules() if module._forward_hooks]
        return {
            "unchanged": bool(torch.equal(draw(model), before)), "learned": relative(draw(made), before), "left": left,
            "stock": relative(draw(stock), draw(made)), "same_file": (loras / "tuned.safetensors").read_bytes() == first,
            "samples": list(samples.shape), "finite": bool(samples.isfinite().all()), "report": report,
        }  # fmt: skip

    def paired(model: Any, texts: Any, pictures: Any, draw: Any) -> dict[str, Any]:
        before, pair = draw(model), nodes.NODE_CLASS_MAPPINGS["RapidDrawTrainTimeDecoupledPair"]
        settings = {**SETTINGS, "filename": "pair", "prompt": graph, "unique_id": "6"}
        structure, texture, _, report, _, _ = pair().execute(model, texts, pictures, **settings, t_struct=500)["result"]
        files = ("pair-structure.safetensors", "pair-texture.safetensors")
        stock = [nodes.LoraLoader().load_lora(model, None, name, 1.0, 0.0)[0] for name in files]
        loaded = nodes.NODE_CLASS_MAPPINGS["RapidDrawLoadTimeDecoupledLoras"]().execute(model, *files, 1.0, 1.0)
        drawn_by = [draw(one) for one in (structure, texture)]
        return {
            "unchanged": bool(torch.equal(draw(model), before)), "learned": [relative(one, before) for one in drawn_by],
            "differ": relative(*drawn_by), "stock": [relative(draw(one), other) for one, other in zip(stock, drawn_by, strict=True)],
            "loaded": [relative(draw(one), other) for one, other in zip(loaded[:2], drawn_by, strict=True)], "switch": loaded[2],
            "report": report,
        }  # fmt: skip

    def with_texts() -> dict[str, Any]:
        """The text encoder and the projection of a graph, trained along."""
        model, graph_of = sd15_unet(), ours("core.knowledge.graph").load_knowledge(MODELS / "tiny-kg.safetensors")
        informed = host.knowledge.attach(clip, graph_of, 1.0)
        before = sampled(model, informed)
        made, texts = trained(model, informed, vae, filename="texts", text_rank=2, learn_projection=True)[:2]
        chosen = ours("core.knowledge.choices").load_chosen_projection("texts-projection.safetensors")
        stock, stock_clip = nodes.LoraLoader().load_lora(model, clip, "texts.safetensors", 1.0, 1.0)
        stock_clip = host.knowledge.attach(stock_clip, graph_of, 1.0, chosen)
        encode = nodes.CLIPTextEncode().encode
        first, second, base = (encode(one, "a red mirado")[0][0][0] for one in (texts, stock_clip, informed))
        plain = nodes.LoraLoader().load_lora(model, clip, "texts.safetensors", 1.0, 1.0)[1]
        return {
            "unchanged": bool(torch.equal(sampled(model, informed), before)), "learned": relative(first, base),
            "stock": relative(second, first), "drawn": relative(sampled(stock, stock_clip), sampled(made, texts)),
            "lora_alone": relative(encode(plain, "a")[0][0][0], encode(clip, "a")[0][0][0]),
        }  # fmt: skip

    run_module, encoded = ours("core.operations.domain_run"), []
    plainly = run_module.encode_pictures
    run_module.encode_pictures = lambda *given: encoded.append(1) or plainly(*given)
    pairs = {"SD 1.5": (sd15_unet(), clip, vae, lambda model: sampled(model, clip))}
    found["SD 1.5"] = checked(sd15_unet(), clip, vae, lambda model: sampled(model, clip))
    for name in ("Flux", "Z-Image", "Qwen-Image"):
        if name in families.available():
            parts = (families.model(name), Texts(name), families.vae(name), lambda model, name=name: drawn(model, name))
            encoded.clear()
            try:
                found[name] = checked(*parts)
            except ours("core.errors").InputError as error:
                found[name] = {"error": str(error), "encoded": len(encoded)}
                continue
            pairs |= {name: parts} if name == "Z-Image" else {}
    found["texts"] = with_texts()
    found["pair"] = {name: paired(*parts) for name, parts in pairs.items()}
    path = host.process.workflow_folder() / "tuned.json"
    workflow = json.loads(path.read_text(encoding="utf-8"))
    found["workflow"] = {"where": path.parent.relative_to(FOLDER).as_posix(), "types": sorted(one["type"] for one in workflow["nodes"])}
    lora = next(one for one in workflow["nodes"] if one["type"] == "LoraLoader")
    found["workflow"]["lora"] = lora["widgets_values"]
    half = sd15_unet(stored=torch.float16, computes=torch.float32)
    found["half"] = relative(sampled(trained(half, clip, vae, filename="half")[0], clip), sampled(half, clip))
    found["refused"] = {}
    for name, parts in {"vae": (families.model("Flux"), Texts("Flux"), vae), "clip": (sd15_unet(), wide(clip), vae)}.items():
        try:
            trained(*parts, filename="refused")
            found["refused"][name] = "it ran"
        except ours("core.errors").RapidDrawError as error:
            found["refused"][name] = str(error)
    write(found)


with torch.inference_mode():
    run()
