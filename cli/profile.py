"""Command `profile`: where the time of a saved graph goes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.files import check_file_writable, replacing
from ..nodes.registry import registry
from .common import say

EXAMPLE = """examples:
  python -m rapiddraw profile workflows/api/text_to_image.json
  python -m rapiddraw profile workflows/api/accelerated.json --runs 5 --steps 25 --chart profile.png"""
_FROM = {
    "model": ("KSampler", "KSamplerAdvanced", "CFGGuider", "BasicGuider"),
    "clip": ("CLIPTextEncode", "RapidDrawKGTextEncode"),
    "vae": ("VAEDecode",),
    "upscale_model": ("RapidDrawESRGANUpscale", "ImageUpscaleWithModel"),
}
"""Which nodes' inputs say what a graph draws with."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "profile", help="show where the time of a saved graph goes",
        description="Seconds, share, parameters, memory and multiply-adds of a graph's text encoder, U-Net (by type of block), decoder "
        "and upscaler, with whatever patches the graph puts on them.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("graph", help="a .json in ComfyUI's UI or API format, a .png that carries one, or the name of a shipped graph")
    parser.add_argument("--runs", type=int, default=3, help="measured runs; the table gives medians (default 3)")
    parser.add_argument("--warmup", type=int, default=1, help="unmeasured runs first (default 1)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the graph's)")
    parser.add_argument("--chart", metavar="FILE", help="save the bar chart as this .png")


def run(args: argparse.Namespace) -> int:
    from ..core.graph.execute import Runner
    from ..core.graph.formats import read_graph

    if args.chart:
        check_file_writable(Path(args.chart))
    nodes = registry()
    found: dict[str, Any] = {}

    class Keep:
        """Stands at the end of the graph and keeps what the profile said."""

        RETURN_TYPES: tuple[str, ...] = ()
        FUNCTION, OUTPUT_NODE, CATEGORY = "execute", True, "RapidDraw/profile"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"table": ("STRING", {"forceInput": True}), "chart": ("IMAGE",)}}

        def execute(self, table: str, chart: Any) -> dict[str, Any]:
            found.update(table=table, chart=chart)
            return {}

    graph = profiled(read_graph(args.graph).to_api(nodes), args.steps, args.runs, args.warmup)
    Runner({**nodes, "RapidDrawKeepProfile": Keep}).run(graph)
    say(found["table"])
    if args.chart:
        from PIL import Image

        with replacing(args.chart) as temporary:
            Image.fromarray((found["chart"][0] * 255).round().byte().numpy()).save(temporary, format="PNG")
        say(args.chart)
    return 0


def profiled(graph: Mapping[str, Any], steps: int | None, runs: int, warmup: int) -> dict[str, Any]:
    """Return the graph in API format with only a profile of its parts at its end. Raises :class:`GraphError` where a part is missing."""
    from ..core.errors import GraphError

    links = {part: _link(graph, part) for part in _FROM}
    missing = [part for part in ("model", "clip", "vae") if links[part] is None]
    if missing:
        raise GraphError(f"this graph has no sampler, text encoder and decoder that can be told apart: {', '.join(missing)} not found")
    values = {name: _value(graph, name) for name in ("width", "height", "steps")}
    inputs = {
        **{part: link for part, link in links.items() if link is not None},
        "width": values["width"] or 128, "height": values["height"] or 128, "steps": steps or values["steps"] or 20,
        "runs": runs, "warmup": warmup,
    }  # fmt: skip
    end = {
        "profile": {"class_type": "RapidDrawProfilePipeline", "inputs": inputs},
        "keep": {"class_type": "RapidDrawKeepProfile", "inputs": {"table": ["profile", 0], "chart": ["profile", 1]}},
    }
    needed, waiting = dict(end), list(inputs.values())
    while waiting:
        link = waiting.pop()
        if isinstance(link, list) and link[0] not in needed:
            needed[link[0]] = graph[link[0]]
            waiting += graph[link[0]]["inputs"].values()
    return needed


def _link(graph: Mapping[str, Any], part: str) -> Any:
    links = (node["inputs"].get(part) for node in graph.values() if node["class_type"] in _FROM[part])
    return next((link for link in links if isinstance(link, list)), None)


def _value(graph: Mapping[str, Any], name: str) -> int | None:
    kinds = ("EmptyLatentImage",) if name != "steps" else ("KSampler", "KSamplerAdvanced", "BasicScheduler")
    values = (node["inputs"].get(name) for node in graph.values() if node["class_type"] in kinds)
    return next((value for value in values if isinstance(value, int)), None)
