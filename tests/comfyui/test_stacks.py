"""What makes a graph fast, stacked in ComfyUI on what makes it the user's own: attention patches, Compile and Picard with a LoRA and a
ControlNet that are not ours, on a checkpoint that is not ours. Every stack draws what ComfyUI draws without us, and says one line.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.benchmarks.comfy_server import Graph, Run
from rapiddraw.tests import sd_helpers
from rapiddraw.tests.comfyui.graphs import node

STEPS, BATCH, SIZE = 6, 2, 64
SAME = 2  # of 255: what other kernels' rounding may make of a pixel
OTHER = 8
SELF = node("RapidDrawFlashAttentionPatch", backend="tiled", apply_to="self", allow_inexact=False)
CROSS = node("RapidDrawFlashAttentionPatch", backend="sdpa_math", apply_to="cross", allow_inexact=False)
COMPILE = node("RapidDrawCompile", compile="at once", precision="keep", budget=120.0)
EULER = node("KSamplerSelect", sampler_name="euler")
PICARD = node("RapidDrawSamplerPicard", method="ddim", window=4, tolerance=0.0, max_states=0)
STACKS = {
    "two attention patches": ([SELF, CROSS], EULER),
    "compile": ([COMPILE], EULER),
    "picard": ([], PICARD),
    "everything": ([SELF, CROSS, COMPILE], PICARD),
}


def write_lora(path: Path) -> None:
    """A LoRA of rank 4 for every attention projection of the compact U-Net."""
    from safetensors.torch import save_file

    generator, tensors, prefix = torch.Generator().manual_seed(0), {}, "model.diffusion_model."
    for name, shape in sd_helpers.compact_sd15().items():
        if name.startswith(prefix) and name.endswith(("to_q.weight", "to_k.weight", "to_v.weight")):
            key = "lora_unet_" + name.removeprefix(prefix).removesuffix(".weight").replace(".", "_")
            tensors[f"{key}.lora_up.weight"] = torch.randn(shape[0], 4, generator=generator) * 0.2
            tensors[f"{key}.lora_down.weight"] = torch.randn(4, shape[1], generator=generator) * 0.2
    save_file(tensors, str(path))


@pytest.fixture(scope="module")
def world(server: Any) -> Iterator[Any]:
    """The server, with a checkpoint, a LoRA, a ControlNet and two pictures of the user's."""
    models = server.base / "models"
    made = [
        models / "checkpoints" / "stacked.safetensors",
        models / "controlnet" / "control.safetensors",
        models / "loras" / "own.safetensors",
    ]
    sd_helpers.write_single_file(made[0], sd_helpers.compact_sd15(), dtype=torch.float16)
    sd_helpers.write_single_file(made[1], sd_helpers.compact_controlnet(), seed=3)
    write_lora(made[2])
    for number in range(BATCH):
        pixels = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(server.base / "input" / f"hint{number}.png")
    yield server
    server.forget()
    for path in made:
        path.unlink()


def stack(patches: list[dict[str, Any]], sampler: dict[str, Any], lora: float = 1.0, strength: float = 1.0) -> Graph:
    """Checkpoint, patches, LoRA, ControlNet up to the middle of the walk with a hint for each picture, sampler."""
    graph = {
        "C": node("CheckpointLoaderSimple", ckpt_name="stacked.safetensors"),
        "P": node("CLIPTextEncode", text="a (red:1.2) apple on a green hill", clip=["C", 1]),
        "N": node("CLIPTextEncode", text="", clip=["C", 1]),
        "I0": node("LoadImage", image="hint0.png"),
        "I1": node("LoadImage", image="hint1.png"),
        "I": node("ImageBatch", image1=["I0", 0], image2=["I1", 0]),
        "O": node("ControlNetLoader", control_net_name="control.safetensors"),
        "A": node(
            "ControlNetApplyAdvanced", positive=["P", 0], negative=["N", 0], control_net=["O", 0], image=["I", 0], strength=strength,
            start_percent=0.0, end_percent=0.5,
        ),
        "L": node("LoraLoaderModelOnly", model=["C", 0], lora_name="own.safetensors", strength_model=lora),
        "E": node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=BATCH),
        "S": sampler,
        "B": node("BasicScheduler", model=["C", 0], scheduler="normal", steps=STEPS, denoise=1.0),
        "K": node(
            "SamplerCustom", model=["L", 0], add_noise=True, noise_seed=1, cfg=4.0, positive=["A", 0], negative=["A", 1],
            sampler=["S", 0], sigmas=["B", 0], latent_image=["E", 0],
        ),
        "D": node("VAEDecode", samples=["K", 0], vae=["C", 2]),
        "V": node("SaveImage", images=["D", 0], filename_prefix="stack"),
    }  # fmt: skip
    for number, patch in enumerate(patches):
        graph[f"X{number}"] = {**patch, "inputs": {**patch["inputs"], "model": graph["L"]["inputs"]["model"]}}
        graph["L"]["inputs"]["model"] = [f"X{number}", 0]
    return graph


def finished(server: Any, graph: Graph) -> Run:
    run = server.run(graph)
    assert (run.status, run.node_errors, run.error) == ("success", {}, ""), server.tail()
    return run


def draw(server: Any, graph: Graph) -> np.ndarray:
    """The pictures, (BATCH, SIZE, SIZE, 3)."""
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16) for data in server.pictures(finished(server, graph))]
    return np.stack(pictures)


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one - other).max())


@pytest.fixture(scope="module")
def wanted(world: Any) -> dict[float, np.ndarray]:
    """What ComfyUI draws by itself, by the LoRA's strength."""
    return {lora: draw(world, stack([], EULER, lora)) for lora in (1.0, 0.5)}


def test_the_lora_and_the_controlnet_matter(world: Any, wanted: dict[float, np.ndarray]) -> None:
    assert wanted[1.0].std() > 1 and apart(wanted[1.0], wanted[0.5]) > OTHER
    assert apart(wanted[1.0], draw(world, stack([], EULER, strength=0.0))) > OTHER
    assert "not loaded" not in world.tail().lower()


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_draws_what_comfyui_draws_and_says_one_line(world: Any, wanted: dict[float, np.ndarray], name: str) -> None:
    patches, sampler = STACKS[name]
    world.forget()  # so that nothing is known of this network yet
    since = len(world.logged())
    assert apart(draw(world, stack(patches, sampler)), wanted[1.0]) <= SAME
    told = world.logged(since)
    assert sum("attention: " in line for line in told) == sum("Attention" in patch["class_type"] for patch in patches), told
    speeds = [line for line in told if "speed: " in line]
    assert len(speeds) == (COMPILE in patches), speeds
    assert not any("Traceback" in line or "is off for this model" in line or "eager runs" in line for line in told), told
    since = len(world.logged())
    assert apart(draw(world, stack(patches, sampler, lora=0.5)), wanted[0.5]) <= SAME
    assert not any("speed: " in line or "attention: " in line for line in world.logged(since)), "another LoRA is no new start"


def test_a_cancel_in_the_middle_of_a_stack_does_not_poison_the_next_run(world: Any, wanted: dict[float, np.ndarray]) -> None:
    graph = stack(*STACKS["everything"])
    graph["B"]["inputs"]["steps"] = 400
    run = world.run(graph, cancel_at=2)
    assert run.of("execution_interrupted") and not run.of("execution_success") and not run.error
    assert apart(draw(world, stack(*STACKS["everything"])), wanted[1.0]) <= SAME
