"""Train Image Tokens: from a folder of pictures, MODEL, CLIP, VAE and CLIP_VISION to a projection and a workflow that draws with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..bundles.find import list_bundles
from ..data.places import annotated_name
from ..errors import InputError
from ..text.picture_reader import PictureReader, clip_vision_reader, tower_reader
from .distill import Run
from .domain_data import Pictures
from .domain_image_tokens import ImageTokensTuning
from .domain_run import Job, bundle_name, bundle_path, run_domain
from .ready_workflow import PARTS, sources, workflow_line


@dataclass(frozen=True)
class TunedTokens:
    """The projection's name for Image Variation Encode, a report, and two IMAGEs: the loss, and samples before (first row) and after, by
    the pictures in the third row."""

    name: str
    report: str
    plot: torch.Tensor
    samples: torch.Tensor
    path: Path


def reader_of(clip_vision: Any, tower: Path | None) -> PictureReader:
    """Return what reads the pictures: `clip_vision`, else the image tower in `tower`. Raises :class:`InputError` where there is neither."""
    if clip_vision is not None:
        return clip_vision_reader(clip_vision)
    if tower is None:
        raise InputError("no CLIP_VISION is linked and no image tower is chosen: link clip_vision from Load CLIP Vision, or choose a tower")
    return tower_reader(tower)


def train_image_tokens(parts: tuple[Any, Any, Any], reader: PictureReader, job: Job, recipe: ImageTokensTuning, run: Run) -> TunedTokens:
    """Train a projection of the embeddings of `reader` for `parts` (MODEL, CLIP, VAE), none of which is changed. See
    :func:`~.domain_run.run_domain`."""
    recipe.check()
    out = bundle_path(job.filename, "image_tokens")
    recipe.of(reader, parts[0])
    made = run_domain(parts, job, recipe, run, [out])
    lines = made.report(recipe, [out])
    if job.graph:
        picture = annotated_name(made.pictures.images.items[recipe.shown[0]].path)

        def drawing() -> Mapping[str, Any]:
            by_vision = reader.told["kind"] == "clip_vision"
            names = (*PARTS, "clip_vision") if by_vision else PARTS
            drawn = made.drawing(recipe, job, None, names=names)
            links = sources(job.graph, job.node_id, names)[1]
            tower = next(iter(list_bundles("image")), "") if by_vision else reader.told["name"]
            taken = {name: links[name] for name in names if name in ("model", "clip_vision")}
            return prompted(drawn, {"tokens_name": bundle_name(out), "tower_name": tower, "strength": 1.0, **taken}, picture)

        lines.append(workflow_line(job.filename, drawing, job.classes))
    samples = with_pictures(made.samples, made.pictures, recipe.shown, len(made.prompts))
    return TunedTokens(bundle_name(out), "\n".join(lines), made.plot(), samples, made.result.files[0])


def with_pictures(samples: torch.Tensor, pictures: Pictures, shown: Sequence[int], count: int) -> torch.Tensor:
    """Return a sheet (1, 2 H, count W, 3) of samples with a third row: the pictures `shown` by which they were drawn."""
    height, width = samples.shape[1] // 2, samples.shape[2] // count
    chosen = [pictures.images.fitted(shown[number % len(shown)], height, width) for number in range(count)]
    row = torch.cat([(one.movedim(0, -1) + 1) / 2 for one in chosen], dim=1)
    return torch.cat([samples, row[None].to(samples)], dim=1)


def prompted(graph: Mapping[str, Any], encode: Mapping[str, Any], picture: str) -> dict[str, Any]:
    """Return a drawing graph whose prompt is followed by the tokens of the picture `picture`. `encode` are other inputs of the node that
    makes them."""
    sampler = next(key for key, node in graph.items() if node["class_type"] == "KSampler")
    inputs = graph[sampler]["inputs"]
    load, tokens = (str(max(map(int, graph)) + place) for place in (1, 2))
    given = {"image": [load, 0], **encode, "conditioning": inputs["positive"]}
    return {
        **graph,
        load: {"class_type": "LoadImage", "inputs": {"image": picture}},
        tokens: {"class_type": "RapidDrawImageVariationEncode", "inputs": given},
        sampler: {**graph[sampler], "inputs": {**inputs, "positive": [tokens, 0]}},
    }
