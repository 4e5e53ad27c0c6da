"""The templates for a start, drawn by a real ComfyUI with files of the names that they ask for: small models with random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core.graph.shipped import NEED_MODELS
from rapiddraw.core.paths import pack_root
from rapiddraw.tests import helpers
from rapiddraw.tests.comfyui import conftest
from rapiddraw.tests.comfyui.graphs import LEAST, saved
from rapiddraw.tests.comfyui.test_saved_graphs import pixels
from safetensors.torch import save_file

NAMES = sorted(name for name in NEED_MODELS if name[:1].isdigit())
FILES = {
    "checkpoints/v1-5-pruned-emaonly-fp16": "SD 1.5",
    "checkpoints/sd_xl_base_1.0": "SDXL",
    "checkpoints/sd_xl_refiner_1.0": "SDXL",
    "controlnet/control_v11p_sd15_canny_fp16": "SD 1.5",
    "diffusion_models/z_image_turbo_bf16": "Z-Image",
    "text_encoders/qwen_3_4b": "Z-Image",
    "vae/ae": "Z-Image",
    "diffusion_models/qwen_image_fp8_e4m3fn": "Qwen-Image",
    "text_encoders/qwen_2.5_vl_7b_fp8_scaled": "Qwen-Image",
    "vae/qwen_image_vae": "Qwen-Image",
    "diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled": "Wan 2.2",
    "diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled": "Wan 2.2",
    "text_encoders/umt5_xxl_fp8_e4m3fn_scaled": "Wan 2.2",
    "vae/wan_2.1_vae": "Wan 2.2",
}
SMALL = {"length": 5, "long_side": 256, "size": 64, "drawn": 2, "teacher_steps": 8, **LEAST}
"""Values of inputs that make a graph short; sides become an eighth, of 1024 pixels 128."""


@pytest.fixture(scope="module")
def ready(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A ComfyUI that has every file which the templates name, a picture and a folder of pictures with captions."""
    from rapiddraw.benchmarks.comfy_server import Server

    assert conftest.COMFYUI is not None
    server = Server(conftest.COMFYUI, conftest.PYTHON, tmp_path_factory.mktemp("first"), pack_root(), weights)
    (server.base / "custom_nodes" / "small_loaders.py").symlink_to(Path(__file__).parent / "small_loaders.py")
    for name, family in FILES.items():
        path = server.base / "models" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"weight": torch.randn(8)}, path, {"family": family})
    helpers.write_esrgan(server.base / "models" / "upscale_models" / "RealESRGAN_x4plus.safetensors")
    noise = np.random.default_rng(0)
    (server.base / "input" / "my-pictures").mkdir()
    for place in ("example.png", *(f"my-pictures/{number}.png" for number in range(4))):
        Image.fromarray(noise.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(server.base / "input" / place)
        (server.base / "input" / place).with_suffix(".txt").write_text("a red fruit", encoding="utf-8")
    server.start()
    yield server
    server.stop()


def shortened(graph: dict[str, Any]) -> dict[str, Any]:
    """A copy that is soon drawn. Names of models and links stay."""
    graph = copy.deepcopy(graph)
    for node in graph.values():
        inputs = node["inputs"]
        for key, value in inputs.items():
            if key in ("width", "height") and isinstance(value, int):
                inputs[key] = value // 8
            elif key in SMALL and isinstance(value, int) and not isinstance(value, bool):
                inputs[key] = min(value, SMALL[key])
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_a_template_draws_with_the_models_that_it_names(ready: Any, name: str) -> None:
    graph, ui = saved(name)
    run = ready.run(shortened(graph), workflow=ui)
    assert (run.status, run.node_errors, run.error) == ("success", {}, ""), ready.tail()
    saving = [number for number, node in graph.items() if node["class_type"] in ("RapidDrawSaveMarkedImage", "SaveAnimatedWEBP")]
    assert saving and all(run.outputs[number]["images"] for number in saving)
    for data in ready.pictures(run):
        if data[:4] == b"\x89PNG":
            assert pixels(data).std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_a_template_names_is_one_of_those(name: str) -> None:
    files = {f"{path.rsplit('/', 1)[1]}.safetensors" for path in FILES} | {"RealESRGAN_x4plus.safetensors"}
    graph, _ = saved(name)
    named = {
        value for node in graph.values() if not node["class_type"].startswith("RapidDraw")
        for value in node["inputs"].values() if isinstance(value, str) and value.endswith(".safetensors")
    }  # fmt: skip
    assert named and named <= files
