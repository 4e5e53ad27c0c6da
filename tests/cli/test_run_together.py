"""`accelerate launch -m rapiddraw run`: several processes that draw one picture."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from rapiddraw.core.paths import pack_root
from rapiddraw.tests.helpers import write_bundles

TINY = {"unet_name": "tiny-unet.safetensors", "text_name": "tiny-text.safetensors", "vae_name": "tiny-vae.safetensors"}
GRAPH = {
    "1": {"class_type": "RapidDrawBundleLoader", "inputs": TINY},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fruit", "clip": ["1", 1]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
    "4": {"class_type": "CFGGuider", "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "cfg": 3.0}},
    "5": {"class_type": "RapidDrawSamplerPicard", "inputs": {"method": "ddim", "window": 6, "tolerance": 0.0, "max_states": 0}},
    "6": {"class_type": "BasicScheduler", "inputs": {"model": ["1", 0], "scheduler": "normal", "steps": 8, "denoise": 1.0}},
    "7": {"class_type": "RandomNoise", "inputs": {"noise_seed": 3}},
    "8": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "9": {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {"noise": ["7", 0], "guider": ["4", 0], "sampler": ["5", 0], "sigmas": ["6", 0], "latent_image": ["8", 0]},
    },
    "10": {"class_type": "VAEDecode", "inputs": {"samples": ["9", 0], "vae": ["1", 2]}},
    "11": {"class_type": "SaveImage", "inputs": {"images": ["10", 0], "filename_prefix": "together"}},
    "12": {"class_type": "RapidDrawSamplerReport", "inputs": {"sampler": ["5", 0], "latent": ["9", 0]}},
    "13": {"class_type": "PreviewAny", "inputs": {"source": ["12", 1]}},
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[dict, Path]]:
    """What one process and what two print as JSON, and the folder of their pictures."""
    folder = tmp_path_factory.mktemp("together")
    write_bundles(folder / "weights")
    (folder / "graph.json").write_text(json.dumps(GRAPH), encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]  # as accelerate launches
    found = {}
    for count, start in ((1, []), (2, launch)):
        out = folder / f"out{count}"
        command = [sys.executable, *start, "-m", "rapiddraw", "run", str(folder / "graph.json"), "--output", str(out), "--json"]
        environment = {**os.environ, "RAPIDDRAW_WEIGHTS": str(folder / "weights"), "RAPIDDRAW_DEVICE": "cpu", "OMP_NUM_THREADS": "1",
                       "ACCELERATE_USE_CPU": "1"}  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=pack_root().parent)  # noqa: S603
        assert done.returncode == 0, done.stderr[-3000:]
        found[count] = (json.loads(done.stdout), out)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_draw_the_picture_of_one_and_save_it_once(drawn):
    (one,), (two,) = (list(out.rglob("together*.png")) for _, out in drawn.values())
    with Image.open(one) as first, Image.open(two) as second:
        assert max(high for _, high in ImageChops.difference(first, second).getextrema()) <= 1
        assert max(high - low for low, high in first.getextrema()) > 10


def test_the_window_is_shared(drawn):
    one, two = (shown["outputs"]["13"]["text"][0].splitlines() for shown, _ in drawn.values())
    calls = [int(line.removeprefix("calls: ")) for line in one + two if line.startswith("calls: ")]
    assert calls[1] == 2 * calls[0] - 1, "the last iteration has one state left: one process has nothing to do"
    assert [line for line in one if line.startswith("iter")] == [line for line in two if line.startswith("iter")]
