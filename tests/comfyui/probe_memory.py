"""Two models in time on a device that cannot hold both; started as inside.py says, with a size.

The device is the CPU under another name (`cpu:0`), with as much memory as we say: ComfyUI then loads, evicts and offloads in parts as it
does on a card. The size is `narrow`, or `sd15` for two U-Nets of SD 1.5's real size (3.5 GB of random weights in all).
"""

from __future__ import annotations

from typing import Any

from inside import WORDS, load_pack, write

# isort: split
import comfy.model_management as management
import torch
from models import NARROW, sd15_unet

import nodes

(SIZE,) = WORDS
CARD, RAM = torch.device("cpu", 0), torch.device("cpu")
SHAPES: dict[str, dict[str, Any]] = {
    "narrow": NARROW,
    "sd15": {
        "model_channels": 320, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768, "num_heads": 8,
    },
}  # fmt: skip
DTYPE = torch.bfloat16 if SIZE == "sd15" else torch.float32
WIDTH = SHAPES[SIZE]["context_dim"]
LATENT = {"samples": torch.zeros(1, 4, 8, 8)}
found: dict[str, Any] = {}


def network(seed: int) -> Any:
    return sd15_unet(SHAPES[SIZE], DTYPE, seed=seed, std=0.02, devices=(CARD, RAM))


def conditioning(seed: int) -> list[list[Any]]:
    return [[torch.randn(1, 77, WIDTH, generator=torch.Generator().manual_seed(seed)), {"pooled_output": None}]]


POSITIVE, NEGATIVE = conditioning(1), conditioning(2)


class Card:
    """So many bytes of memory, and the most that models have held of it. `need`: what ComfyUI keeps free for computing."""

    def __init__(self) -> None:
        self.size, self.most, self.need = 1e18, 0, 1024.0
        management.vram_state = management.VRAMState.NORMAL_VRAM
        management.get_free_memory = self.free
        management.is_device_cpu = lambda device: device == RAM
        management.minimum_inference_memory = lambda: self.need
        management.extra_reserved_memory = lambda: 0
        real = management.load_models_gpu

        def load(*args: Any, **kwargs: Any) -> Any:
            try:
                return real(*args, **kwargs)
            finally:
                self.most = max(self.most, self.held())

        management.load_models_gpu = load

    def held(self) -> int:
        return sum(loaded.model_loaded_memory() for loaded in management.current_loaded_models if loaded.device == CARD)

    def free(self, dev: Any = None, torch_free_too: bool = False) -> Any:
        left = 1e18 if dev == RAM else self.size - self.held()
        return (left, left) if torch_free_too else left

    def run(self, size: float, work: Any) -> tuple[Any, float]:
        """What `work()` gives with a card of `size` bytes, nothing loaded before, and the most that was held."""
        management.free_memory(1e30, CARD)
        self.size, self.most = size, 0
        return work(), self.most


def run() -> None:
    ours = load_pack()
    package = ours("core.host")
    host = package.current()
    card = Card()
    structure, texture = network(0), network(1)
    weights = structure.model_size()
    for model in (structure, texture):
        model.model.memory_required = lambda *_, **__: card.need  # a share of the weights, whatever the picture's size
    card.need = 0.1 * weights

    def pair() -> torch.Tensor:
        guider = host.time_decoupled.make_guider(
            [package.Stage(structure, POSITIVE, NEGATIVE, 2.0, 500), package.Stage(texture, None, None, 2.0)]
        )
        return host.time_decoupled.sample(guider, LATENT, package.SamplingRun(3, 4, "euler", "normal"), "keep")["samples"]

    def composite() -> torch.Tensor:
        return stock(host.time_decoupled.join(structure, texture, 500))

    def stock(model: Any) -> torch.Tensor:
        return nodes.common_ksampler(model, 3, 4, 2.0, "euler", "normal", POSITIVE, NEGATIVE, LATENT)[0]["samples"]

    def in_turn() -> list[torch.Tensor]:
        return [stock(model) for model in (structure, texture)]

    expected, everything = card.run(1e18, pair)
    found["weights"], found["held with room"] = weights, everything / weights
    for name, share in (("one and a half", 1.5), ("one", 1.0), ("half a model", 0.5)):
        size = share * weights + card.need
        _, most = card.run(size, in_turn)
        drawn, held = card.run(size, pair)
        joined, held_joined = card.run(size, composite)
        found[name] = {
            "same": bool(torch.equal(drawn, expected)), "same composite": bool(torch.equal(joined, expected)), "fits": held <= size,
            "held": held / weights, "held composite": held_joined / weights, "held by stock samplers": most / weights,
            "varies": float(drawn.std()),
        }  # fmt: skip


with torch.inference_mode():
    run()
write(found)
