"""Train Domain Model: from a folder of pictures and a MODEL, CLIP and VAE to a LoRA file and a workflow that draws with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..host import current
from ..knowledge.projection import load_projection
from ..paths import made_bundle_path, made_weights_dir
from ..train.recipe import check_bundle
from .distill import Run
from .domain import DomainTuning
from .domain_run import Job, lora_name, lora_path, run_domain
from .ready_workflow import workflow_line


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
    out = lora_path(job.filename)
    places = [out, *([projection_path(job.filename)] if recipe.learn_projection else [])]
    made = run_domain(parts, job, recipe, run, places)
    paths = tuple(made.result.files)
    model, clip = learned(parts[0], parts[1], recipe, paths)
    inputs = {"model": None, "clip": None, "lora_name": lora_name(out), "strength_model": 1.0, "strength_clip": 1.0}
    lines, graph = made.report(recipe, [out]), job.graph
    if recipe.learn_projection:
        name = projection_name(paths[1])
        lines.append(f"saved the projection as {name}, for the input projection of Apply Knowledge")
        graph = with_projection(graph, name)
    if graph:
        loader = {"class_type": "LoraLoader", "inputs": inputs}
        lines.append(workflow_line(job.filename, lambda: made.drawing(recipe, replace(job, graph=graph), loader), job.classes))
    return Tuned(model, clip, "\n".join(lines), made.plot(), made.samples, paths)


def learned(model: Any, clip: Any, recipe: DomainTuning, paths: tuple[Path, ...]) -> tuple[Any, Any]:
    """Return (MODEL, CLIP) with what `recipe` has written to `paths`, as loaders would."""
    host = current()
    with torch.inference_mode():
        tuned, texts = host.surgery.add_lora(model, clip if recipe.text_rank else None, paths[0], 1.0, float(recipe.text_rank > 0))
        texts = clip if texts is None else texts
        if recipe.learn_projection:
            (one,) = host.knowledge.reader_of(clip).attachments
            texts = host.knowledge.attach(texts, one.knowledge, one.scale, load_projection(paths[1]))
    return tuned, texts


def projection_path(filename: str) -> Path:
    """Return where the projection beside the LoRA `filename` is written. Raises :class:`BundleError` where anything else has its name."""
    path = made_bundle_path(f"{filename.strip().removesuffix('.safetensors')}-projection")
    if path.exists():
        check_bundle("learn_projection", str(path), "projection")
    return path


def projection_name(path: Path) -> str:
    """Return the name by which Apply Knowledge lists a projection."""
    folder = made_weights_dir().resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def with_projection(api: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a graph in API format whose Apply Knowledge nodes read their graph by the projection `name`."""
    changed = {"projection": name}
    return {
        number: {**node, "inputs": {**node.get("inputs", {}), **changed}} if node.get("class_type") == "RapidDrawApplyKnowledge" else node
        for number, node in api.items()
    }
