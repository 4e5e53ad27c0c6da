"""The subgraphs that users find in ComfyUI's node library, each inside a small graph that can run."""

from __future__ import annotations

import json
from typing import Any

from rapiddraw.core.paths import pack_root

FOLDER = pack_root() / "subgraphs"
BLUEPRINTS = sorted(path.stem for path in FOLDER.glob("*.json"))
LOADER, PICTURE, FIRST_OUTPUT = 101, 102, 103
_LOADED = {"MODEL": 0, "CLIP": 1, "VAE": 2}
_SHOWN = {"IMAGE": ("RapidDrawSaveMarkedImage", "images", ["blueprint"]), "STRING": ("PreviewAny", "source", [])}


def blueprint(name: str) -> dict[str, Any]:
    """Return the file of a blueprint: a graph of one node that uses the one definition in the file."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def wrapped(name: str) -> dict[str, Any]:
    """Return a graph in UI format around a blueprint: models from the Orchard's bundles and a grey picture go in, each output is shown."""
    graph = blueprint(name)
    (host,) = graph["nodes"]
    outputs = [{"name": kind.lower(), "type": kind, "links": []} for kind in _LOADED]
    files = [f"orchard-{part}.safetensors" for part in ("unet", "text", "vae")]
    loader = _node(LOADER, "RapidDrawBundleLoader", files, outputs=outputs)
    picture = _node(PICTURE, "EmptyImage", [64, 64, 1, 8421504], outputs=[{"name": "IMAGE", "type": "IMAGE", "links": []}])
    nodes, links = [loader, picture, host], graph["links"]
    for place, slot in enumerate(host["inputs"]):
        if "widget" not in slot:
            source, number = (picture, 0) if slot["type"] == "IMAGE" else (loader, _LOADED[slot["type"]])
            _link(links, (source, number), (host, place))
    for place, output in enumerate(host["outputs"]):
        kind, into, values = _SHOWN[output["type"]]
        shown = _node(FIRST_OUTPUT + place, kind, values, [{"name": into, "type": output["type"], "link": None}])
        nodes.append(shown)
        _link(links, (host, place), (shown, 0))
    for order, node in enumerate(nodes):
        node |= {"order": order, "pos": [450 * order, 0]}
    return graph | {"nodes": nodes, "last_node_id": max(node["id"] for node in nodes), "last_link_id": len(links)}


def _node(number: int, kind: str, values: list[Any], inputs: Any = (), outputs: Any = ()) -> dict[str, Any]:
    place = {"pos": [0, 0], "size": [400, 200], "flags": {}, "order": 0, "mode": 0}
    return {
        "id": number,
        "type": kind,
        **place,
        "inputs": list(inputs),
        "outputs": list(outputs),
        "properties": {},
        "widgets_values": values,
    }


def _link(links: list[Any], start: tuple[dict[str, Any], int], end: tuple[dict[str, Any], int]) -> None:
    (source, slot), (target, place) = start, end
    links.append([len(links) + 1, source["id"], slot, target["id"], place, source["outputs"][slot]["type"]])
    source["outputs"][slot]["links"].append(len(links))
    target["inputs"][place]["link"] = len(links)
