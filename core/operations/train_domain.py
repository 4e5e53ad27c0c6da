"""Train Domain Model: from a folder of pictures and a MODEL, CLIP and VAE to a LoRA file and a workflow that draws with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..host import current
from .distill import Run
from .domain import DomainTuning
from .domain_run import Job, lora_name, lora_path, run_domain
from .ready_workflow import drawing_graph, workflow_line


@dataclass(frozen=True)
class Tuned:
    """MODEL and CLIP with what was learned, a report, and two IMAGEs: the loss, and samples before (first row) and after."""

    model: Any
    clip: Any
    report: str
    plot: torch.Tensor
    samples: torch.Tensor
    paths: tuple[Path, ...]


def train_domain(parts: tuple[Any, Any, Any], job: Job, recipe: DomainTuning, run: Run) -> Tuned:
    """Train LoRA pairs for `parts` (MODEL, CLIP, VAE), none of which is changed. See :func:`~.domain_run.run_domain`."""
    model, clip, _ = parts
    out = lora_path(job.filename)
    made = run_domain(parts, job, recipe, run, [out])
    (path,) = made.result.files
    with torch.inference_mode():
        tuned, _ = current().surgery.add_lora(model, None, path, 1.0, 0.0)
    inputs = {"model": None, "clip": None, "lora_name": lora_name(out), "strength_model": 1.0, "strength_clip": 1.0}
    lines = made.report(recipe, [out])
    if job.graph:
        loader = {"class_type": "LoraLoader", "inputs": inputs}
        graph = drawing_graph(job.graph, job.node_id, loader, made.prompts[0], max(64, recipe.size // 8 * 8))
        lines.append(workflow_line(job.filename, graph, job.classes))
    return Tuned(tuned, clip, "\n".join(lines), made.plot(), made.samples, (path,))
