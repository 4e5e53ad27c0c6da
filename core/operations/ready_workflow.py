"""A workflow that loads what a training has made: the loaders of the training's graph, the LoRA behind them, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import GraphError, RapidDrawError
from ..files import write_numbered
from ..graph.formats import graph_text, write_graph
from ..graph.inputs import Registry, is_link, links_of
from ..graph.layout import to_ui
from ..graph.stock.registry import STOCK_NODES
from ..host import current

Link = list[Any]


def workflow_path(filename: str) -> Path:
    """Return where the workflow `filename` of the user lies."""
    return current().process.workflow_folder() / f"{Path(filename).name.removesuffix('.safetensors')}.json"


PARTS = ("model", "clip", "vae")


def sources(api: Mapping[str, Any], node_id: str, names: Sequence[str] = PARTS) -> tuple[dict[str, Any], dict[str, Link]]:
    """Return (the nodes of a graph in API format that feed a node's inputs `names`, numbered from 1; the new links).

    Raises :class:`GraphError` where the node or one of the links is missing."""
    links = links_of(api[node_id]) if node_id in api else {}
    if missing := [name for name in names if name not in links]:
        raise GraphError(f"the graph has no node {node_id} with links to {', '.join(missing)}")
    order: list[str] = []

    def visit(one: str) -> None:
        if one in order or one not in api:
            return
        for source, _ in links_of(api[one]).values():
            visit(source)
        order.append(one)

    for name in names:
        visit(links[name][0])
    numbers = {one: str(place) for place, one in enumerate(order, start=1)}

    def renumbered(value: Any) -> Any:
        return [numbers[str(value[0])], value[1]] if is_link(value) and str(value[0]) in numbers else value

    kept = {numbers[one]: {**api[one], "inputs": {n: renumbered(v) for n, v in api[one].get("inputs", {}).items()}} for one in order}
    return kept, {name: [numbers[links[name][0]], links[name][1]] for name in names}


@dataclass(frozen=True)
class Sampler:
    """The node that samples in a drawing graph: its class, its MODELs and the like by input (the loader's output), and other inputs."""

    class_type: str = "KSampler"
    takes: Mapping[str, int] = field(default_factory=lambda: {"model": 0})
    settings: Mapping[str, Any] = field(
        default_factory=lambda: {"seed": 0, "steps": 20, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    )


def drawing_graph(
    api: Mapping[str, Any],
    node_id: str,
    loader: Mapping[str, Any] | None,
    prompt: str,
    size: int,
    sampler: Sampler | None = None,
    names: Sequence[str] = PARTS,
) -> dict[str, Any]:
    """Return a graph in API format that draws `prompt` with the sources of the node `node_id` behind `loader`.

    `loader` is the node that takes `model` (and `clip`, where it has that input as `None`) and gives what `sampler` takes; where it takes
    `clip`, it gives a CLIP second. None: the model draws as it is. The sources of the inputs `names` are taken over."""
    sampler = sampler or Sampler()
    nodes, links = sources(api, node_id, names)
    first = len(nodes) + 1
    number = {name: str(first + place) for place, name in enumerate(("loader", "yes", "no", "latent", "sampler", "decode", "save"))}
    clip: Link = links["clip"]
    if loader is not None:
        linked = {name: links[name] if name in ("model", "clip") and value is None else value for name, value in loader["inputs"].items()}
        clip = [number["loader"], 1] if "clip" in loader["inputs"] else clip
        nodes[number["loader"]] = {**loader, "inputs": linked}
    nodes[number["yes"]] = {"class_type": "CLIPTextEncode", "inputs": {"text": prompt, "clip": clip}}
    nodes[number["no"]] = {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": clip}}
    nodes[number["latent"]] = {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}}
    given = {name: [number["loader"], slot] if loader is not None else links[name] for name, slot in sampler.takes.items()}
    given |= {"positive": [number["yes"], 0], "negative": [number["no"], 0], "latent_image": [number["latent"], 0]}
    nodes[number["sampler"]] = {"class_type": sampler.class_type, "inputs": {**given, **sampler.settings}}
    nodes[number["decode"]] = {"class_type": "VAEDecode", "inputs": {"samples": [number["sampler"], 0], "vae": links["vae"]}}
    nodes[number["save"]] = {"class_type": "SaveImage", "inputs": {"images": [number["decode"], 0], "filename_prefix": "tuned"}}
    return nodes


def workflow_line(filename: str, make: Callable[[], Mapping[str, Any]], classes: Registry) -> str:
    """Write the graph that `make` gives among the user's workflows, and return the line of a report that says where it is. A graph that
    cannot be made or written does not end the node: the training is done."""
    try:
        written = write_workflow(workflow_path(filename), make(), classes)
    except (RapidDrawError, OSError) as error:
        return f"no workflow was written ({error})"
    return f"a workflow that draws with it: {written.name} in your workflows ({written.parent})"


def write_workflow(path: Path, api: Mapping[str, Any], classes: Registry) -> Path:
    """Write a graph for the editor, laid out, and return its file. `classes` are this pack's nodes; the host adds its own.

    A file at `path` that holds another graph stays, because it may be the user's; this one then gets a number behind its name."""
    graph = to_ui(api, {**STOCK_NODES, **classes, **current().process.node_classes()})

    def named(number: int) -> str:
        return path.name if number == 1 else f"{path.stem} {number}{path.suffix}"

    number = 1
    while (known := path.with_name(named(number))).is_file():
        if known.read_text(encoding="utf-8", errors="replace") == graph_text(graph):
            return known
        number += 1
    return write_numbered(path.parent, named, number, lambda temporary: write_graph(temporary, graph))[0]
