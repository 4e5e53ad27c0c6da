"""A small CLIP Vision model in ComfyUI's own class and from its file without ComfyUI; started as inside.py says."""

from __future__ import annotations

import json
from typing import Any

from inside import FOLDER, load_pack, relative, write

# isort: split
import comfy.clip_vision
import torch
from safetensors.torch import save_file

SIZES = ((32, 32), (31, 77), (640, 427), (90, 64))
CONFIG = {
    "model_type": "clip_vision_model", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_channels": 3, "image_size": 32, "patch_size": 8, "projection_dim": 24, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip


def run() -> dict[str, Any]:
    ours = load_pack()
    (FOLDER / "vision.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    theirs: Any = comfy.clip_vision.ClipVisionModel(str(FOLDER / "vision.json"))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key: (
            torch.randn(tensor.shape, generator=generator) * (0.1 if tensor.dim() > 1 else 0.05)
            + float(tensor.dim() == 1 and key.endswith("weight"))
        ).half()  # as ComfyUI keeps them
        for key, tensor in theirs.get_sd().items()
        if tensor.is_floating_point()
    }  # fmt: skip
    theirs.load_sd(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, FOLDER / "vision.safetensors")
    mine = ours("core.text.clip_vision").load_clip_vision(FOLDER / "vision.safetensors", torch.device("cpu"))
    found = {}
    for height, width in SIZES:
        image = torch.rand(2, height, width, 3, generator=generator)
        one, other = (model.encode_image(image)["image_embeds"] for model in (mine, theirs))
        found[f"{height}x{width}"] = relative(one, other)
    return found


with torch.inference_mode():
    write(run())
