"""Small graphs of stock nodes around our objects, in API format, and the saved graphs made short enough to test."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from rapiddraw.benchmarks.comfy_server import Graph
from rapiddraw.core.graph.shipped import template_path
from rapiddraw.core.paths import pack_root
from rapiddraw.tests.foreign import with_stand_ins

API = pack_root() / "workflows" / "api"
SAVED = sorted(path.stem for path in API.glob("*.json"))
TINY = {"unet_name": "tiny-unet.safetensors", "text_name": "tiny-text.safetensors", "vae_name": "tiny-vae.safetensors"}
LEAST = {"steps": 4, "runs": 1, "num_prompts": 2, "warmup": 0, "max_nfe": 12}
PROMPT = "a round red fruit on a green hill"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def picture(seed: int = 1, steps: int = 3, **changes: Any) -> Graph:
    """The plain way: load L, encode P and N, start from E, sample K, decode D, save S. `changes` are nodes to add or replace."""
    graph = {
        "L": node("RapidDrawBundleLoader", **TINY),
        "P": node("CLIPTextEncode", text=PROMPT, clip=["L", 1]),
        "N": node("CLIPTextEncode", text="", clip=["L", 1]),
        "E": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "K": node(
            "KSampler", model=["L", 0], positive=["P", 0], negative=["N", 0], latent_image=["E", 0],
            seed=seed, steps=steps, cfg=3.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        "D": node("VAEDecode", samples=["K", 0], vae=["L", 2]),
        "S": node("SaveImage", images=["D", 0], filename_prefix="test"),
    }  # fmt: skip
    return {**graph, **changes}


def sampled_by(model: Any, seed: int = 1) -> Graph:
    """:func:`picture`, its sampler fed by another MODEL."""
    graph = picture(seed)
    graph["K"]["inputs"]["model"] = model
    return graph


def saved(name: str) -> tuple[Graph, dict[str, Any]]:
    """A saved graph in API and in UI format."""
    ui = json.loads(template_path(name).read_text(encoding="utf-8"))
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8")), ui


def shortened(graph: Graph, weights: Path) -> Graph:
    """A copy with few steps and runs. A shipped bundle that is not in the pack is replaced by the tiny one of its kind in `weights`;
    parts that belong together are replaced together."""
    graph = copy.deepcopy(graph)
    parts = [value for entry in graph.values() for key, value in entry["inputs"].items() if key in TINY]
    lacking = any(not (pack_root() / "weights" / name).is_file() for name in parts)
    for entry in graph.values():
        for key, value in entry["inputs"].items():
            if key in LEAST and isinstance(value, int):
                entry["inputs"][key] = min(value, LEAST[key])
            elif lacking and key in TINY:
                entry["inputs"][key] = TINY[key]
            elif lacking and key == "kg_name":
                entry["inputs"][key] = "tiny-kg.safetensors"
            elif key == "model_name" and not (pack_root() / "weights" / str(value)).is_file():
                entry["inputs"][key] = "tiny-esrgan.safetensors"
    return graph


def short(name: str, graph: Graph, weights: Path) -> Graph:
    """:func:`shortened`, with small stand-ins for a user's own models where the saved graph `name` needs them."""
    parts = {"flow": {**TINY, "unet_name": "flow-unet.safetensors"}}
    return shortened(with_stand_ins(name, graph, parts), weights)


def defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """The default of every required widget of a node, from its entry in object_info."""
    found = {}
    for name, spec in schema["input"]["required"].items():
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        if isinstance(kind, list):
            found[name] = options.get("default", kind[0] if kind else "")
        elif kind == "COMBO":
            found[name] = options.get("default", (options.get("options") or [""])[0])
        elif "default" in options:
            found[name] = options["default"]
    return found
