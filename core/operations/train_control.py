"""Train Control Adapter: from a folder of pictures and a MODEL, CLIP and VAE to a CONTROL_NET's file and a workflow that draws with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..bundles.find import list_bundles
from ..data.places import annotated_name
from ..host import current
from .distill import Run
from .domain_control import ControlTuning
from .domain_run import Job, bundle_name, bundle_path, run_domain
from .ready_workflow import workflow_line

MAPS = {"edges": "canny", "sketch": "sketch", "segmentation": "segmentation"}
"""What Condition Map calls the map of a condition."""


@dataclass(frozen=True)
class TunedControl:
    """A CONTROL_NET of what was learned, a report, two IMAGEs (the loss; samples before in the first row and after), and the file."""

    control_net: Any
    report: str
    plot: torch.Tensor
    samples: torch.Tensor
    path: Path


def train_control(parts: tuple[Any, Any, Any], job: Job, recipe: ControlTuning, run: Run) -> TunedControl:
    """Train a control adapter for `parts` (MODEL, CLIP, VAE), none of which is changed. See :func:`~.domain_run.run_domain`.

    Raises :class:`InputError`, before any work, for a model that is no U-Net of Stable Diffusion's kind.
    """
    host = current()
    recipe.check()
    out = bundle_path(job.filename, "control")
    recipe.of(host.model.export(parts[0]))
    made = run_domain(parts, job, recipe, run, [out])
    lines = made.report(recipe, [out])
    if job.graph:
        shown = [*made.pictures.parts["validation"], *made.pictures.parts["train"]][0]
        picture = annotated_name(made.pictures.images.items[shown].path)

        def drawing() -> Mapping[str, Any]:
            drawn = made.drawing(recipe, job, None)
            return controlled(drawn, bundle_name(out), picture, recipe.conditions)

        lines.append(workflow_line(job.filename, drawing, job.classes))
    with torch.inference_mode():
        control_net = host.control.load(made.result.files[0], recipe.conditions[0])
    return TunedControl(control_net, "\n".join(lines), made.plot(), made.samples, made.result.files[0])


def controlled(graph: Mapping[str, Any], name: str, picture: str, conditions: tuple[str, ...]) -> dict[str, Any]:
    """Return a drawing graph whose picture follows the maps of the picture `picture`, by the control adapter `name`."""
    sampler = next(key for key, node in graph.items() if node["class_type"] == "KSampler")
    first = max(map(int, graph)) + 1
    number = {part: str(first + place) for place, part in enumerate(("control", "picture", "apply", *conditions))}
    made = {
        **graph,
        number["control"]: _node("RapidDrawControlAdapterLoader", control_name=name, condition=conditions[0]),
        number["picture"]: _node("LoadImage", image=picture),
    }
    segmenters = list_bundles("segmenter")
    for kind in conditions:
        if kind == "segmentation" and not segmenters:
            continue
        made[number[kind]] = _node(
            "RapidDrawConditionMapExtractor",
            image=[number["picture"], 0], type=MAPS[kind], low=0.1, high=0.2, segmenter_name=segmenters[0] if segmenters else "",
        )  # fmt: skip
    inputs = graph[sampler]["inputs"]
    maps = {kind: [number[kind], 0] for kind in conditions if number[kind] in made}
    made[number["apply"]] = _node(
        "RapidDrawControlAdapterApply",
        positive=inputs["positive"], negative=inputs["negative"], control_net=[number["control"], 0], strength=1.0, start=0.0, end=1.0,
        **maps,
    )  # fmt: skip
    guided = {"positive": [number["apply"], 0], "negative": [number["apply"], 1]}
    made[sampler] = {**graph[sampler], "inputs": {**inputs, **guided}}
    return made


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
