"""Makes this process a ComfyUI on the CPU: what every probe imports first. `python PROBE.py COMFYUI FOLDER MODELS RESULT [WORDS]`.

FOLDER holds the pack as `rapiddraw`, and ComfyUI's own folders; MODELS the bundles or checkpoints of the test; RESULT is the JSON file to
write.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMFYUI, FOLDER, MODELS, RESULT = map(Path, sys.argv[1:5])
WORDS = sys.argv[5:]
os.environ["RAPIDDRAW_WEIGHTS"] = str(MODELS)
os.environ["RAPIDDRAW_DEVICE"] = "cpu"  # the embedded host's
os.environ["COMFYUI_PATH"] = str(COMFYUI)  # where the embedded host finds CLIP's vocabulary
sys.argv = [sys.argv[0], "--cpu", "--base-directory", str(FOLDER)]
sys.path.insert(0, str(COMFYUI))
os.chdir(COMFYUI)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402

import nodes  # noqa: E402


def load_pack() -> Callable[[str], Any]:
    """Loads the pack as ComfyUI does at its start; gives what imports a module of it by its name, `core.host` for one."""
    assert asyncio.run(nodes.load_custom_node(str(FOLDER / "rapiddraw"))), "the pack did not load"
    package = nodes.NODE_CLASS_MAPPINGS["RapidDrawBundleLoader"].__module__.rsplit(".", 2)[0]
    return lambda name: importlib.import_module(f".{name}", package)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of `a` from `b`, as a share of b's largest value."""
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    return float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-6))


def write(found: dict[str, Any]) -> None:
    RESULT.write_text(json.dumps(found), encoding="utf-8")
