"""Train Time-Decoupled Pair: from a folder of pictures and a MODEL, CLIP and VAE to two LoRA files and a workflow that draws with both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..bundles.lora_about import read_about
from ..checks import whole_number
from ..diffusion.noise import MAX_TIMESTEP
from ..diffusion.time_decoupled import T_STRUCT
from ..errors import BundleError
from ..host import current
from .distill import Run
from .domain_choices import PAIR
from .domain_pair import PairTuning
from .domain_run import Job, lora_name, lora_path, run_domain
from .ready_workflow import Sampler, workflow_line

SAMPLER = Sampler(
    "RapidDrawTimeDecoupledSampler",
    {"structure": 0, "texture": 1, "t_struct": 2},
    {
        "seed": 0, "steps": 20, "structure_cfg": 4.0, "texture_cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        "history": "keep",
    },
)  # fmt: skip
"""The node that draws with a pair, behind Load Time-Decoupled LoRAs."""


@dataclass(frozen=True)
class TunedPair:
    """Both MODELs, the name of the pair, a report, two IMAGEs (the loss; samples before and after), and the files."""

    structure: Any
    texture: Any
    name: str
    report: str
    plot: torch.Tensor
    samples: torch.Tensor
    paths: tuple[Path, Path]


def train_pair(parts: tuple[Any, Any, Any], job: Job, recipe: PairTuning, run: Run) -> TunedPair:
    """Train two LoRAs for `parts` (MODEL, CLIP, VAE), none of which is changed. See :func:`~.domain_run.run_domain`."""
    filename = job.filename.strip().removesuffix(".safetensors")
    places = [lora_path(f"{filename}-{name}" if filename else filename) for name in PAIR]
    made = run_domain(parts, job, recipe, run, places)
    structure, texture = made.result.files
    lines = made.report(recipe, places)
    if job.graph:
        names = [lora_name(place) for place in places]
        inputs = {"model": None, "structure_lora": names[0], "texture_lora": names[1], "structure_strength": 1.0, "texture_strength": 1.0}
        loader = {"class_type": "RapidDrawLoadTimeDecoupledLoras", "inputs": inputs}
        lines.append(workflow_line(job.filename, lambda: made.drawing(recipe, job, loader, sampler=SAMPLER), job.classes))
    first, second, _ = load_pair(parts[0], structure, texture, (1.0, 1.0))
    return TunedPair(first, second, filename, "\n".join(lines), made.plot(), made.samples, (structure, texture))


def load_pair(model: Any, structure: Path, texture: Path, strengths: tuple[float, float]) -> tuple[Any, Any, int]:
    """Return (MODEL with the LoRA `structure`, MODEL with the LoRA `texture`, the timestep of the switch).

    The switch is the one that the files tell of, else :data:`T_STRUCT`. Raises :class:`BundleError` for files of a pair in the wrong order
    or of two pairs with different switches, and for a file that does not fit the model.
    """
    told = [read_about(path) for path in (structure, texture)]
    for path, about, wanted in zip((structure, texture), told, PAIR, strict=True):
        if (part := about.get("part", wanted)) != wanted:
            raise BundleError(f"{path.name} is the {part} LoRA of a pair and was given as the {wanted} LoRA; exchange the two")
    switches = {about["t_struct"] for about in told if "t_struct" in about}
    if len(switches) > 1:
        raise BundleError(f"{structure.name} and {texture.name} change at timesteps {sorted(switches)}; choose two LoRAs of one training")
    switch = whole_number("t_struct", switches.pop() if switches else T_STRUCT, 0, MAX_TIMESTEP)
    with torch.inference_mode():
        models = [
            current().surgery.add_lora(model, None, path, strength, 0.0)[0] if strength else model
            for path, strength in zip((structure, texture), strengths, strict=True)
        ]
    return models[0], models[1], switch
