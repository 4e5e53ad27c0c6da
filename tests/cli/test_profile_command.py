from __future__ import annotations

import json

from PIL import Image
from rapiddraw.cli import main
from rapiddraw.cli.profile import profiled
from rapiddraw.core.paths import pack_root


def test_a_graph_is_profiled(tiny_pack, capsys, tmp_path):
    tiny = {"unet_name": "tiny-unet.safetensors", "text_name": "tiny-text.safetensors", "vae_name": "tiny-vae.safetensors"}
    graph = {
        "1": {"class_type": "RapidDrawBundleLoader", "inputs": tiny},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fruit", "clip": ["1", 1]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 32, "height": 32, "batch_size": 1}},
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "seed": 1, "steps": 2, "cfg": 3.0,
                "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            },
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
    }  # fmt: skip
    path, chart = tmp_path / "graph.json", tmp_path / "chart.png"
    path.write_text(json.dumps(graph))
    assert main(["profile", str(path), "--runs", "1", "--warmup", "0", "--chart", str(chart)]) == 0
    said = capsys.readouterr().out
    assert "resnet" in said and "GMAC" in said and "bottleneck: " in said and "size 32x32, steps 2" in said
    assert Image.open(chart).size[0] == 640
    assert not list((tiny_pack / "output").iterdir()), "nothing of the graph itself is drawn"


def test_patches_on_the_way_are_kept_and_the_rest_is_left_out():
    graph = json.loads((pack_root() / "workflows" / "api" / "accelerated.json").read_text(encoding="utf-8"))
    kept = {node["class_type"] for node in profiled(graph, None, 1, 0).values()}
    assert {"RapidDrawCompile", "RapidDrawFlashAttentionPatch", "RapidDrawESRGANLoader"} <= kept
    assert "SamplerCustomAdvanced" not in kept


def test_a_graph_that_draws_nothing_is_refused(tmp_path, capsys):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"1": {"class_type": "EmptyLatentImage", "inputs": {"width": 32, "height": 32, "batch_size": 1}}}))
    assert main(["profile", str(path)]) == 2 and "not found" in capsys.readouterr().err
