from __future__ import annotations

import json

from rapiddraw.core.graph.execute import execute
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.nodes.loaders import BundleLoader
from rapiddraw.nodes.profile import ProfilePipeline
from rapiddraw.nodes.prompts import KeywordPromptGenerator


def test_each_prompt_reaches_what_is_linked():
    keywords = "colour: red, blue\nshape: star"
    registry = {"Prompts": KeywordPromptGenerator, "PreviewAny": STOCK_NODES["PreviewAny"]}
    api = {
        "1": {
            "class_type": "Prompts",
            "inputs": {"keywords": keywords, "language": "en", "num_prompts": 3, "seed": 1},
        },
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    shown = execute(api, registry).outputs["2"]["text"]
    assert len(shown) == 3 and all("star shaped object" in text for text in shown)


def test_a_real_pipeline_is_profiled(tiny_pack):
    model, clip, vae = BundleLoader().execute("tiny-unet.safetensors", "tiny-text.safetensors", "tiny-vae.safetensors")
    table, chart, text, parts = ProfilePipeline().execute(model, clip, vae, 32, 32, 2, 2, 1)
    assert parts.count("The bottleneck is the") == 1 and "student" not in parts
    beside = ProfilePipeline().execute(model, clip, vae, 32, 32, 2, 1, 0, student_steps=1)[3]
    assert beside.count("The bottleneck is the") == 2 and "student takes" in beside and "times as fast" in beside
    rows = {row["component"]: row["median_ms"] for row in json.loads(text)["rows"]}
    inside = {"cross-attention", "self-attention", "resnet", "feed-forward", "resampling"}
    assert set(rows) == {"text encoder", "U-Net loop", *inside, "VAE decoder", "total"}
    counted = {row["component"]: row for row in json.loads(text)["rows"]}
    assert all(counted[name]["multiply_adds"] > 0 and counted[name]["parameters"] > 0 for name in set(rows) - {"total"})
    assert sum(counted[name]["multiply_adds"] for name in inside) < counted["U-Net loop"]["multiply_adds"]
    assert "bottleneck" in table
    assert "U-Net loop" in table and chart.shape[0] == 1
