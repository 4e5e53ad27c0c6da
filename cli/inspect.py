"""Command `inspect`: what a bundle of weights or a saved graph holds."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..nodes.registry import registry
from .common import note, say, say_json

EXAMPLE = """examples:
  python -m rapiddraw inspect weights/orchard-unet.safetensors
  python -m rapiddraw inspect out/picture.png                   (the graph inside a picture)
  python -m rapiddraw inspect --manifest                        (the shipped weights against their SHA-256)

exit codes: 0 every file is sound, 2 one of them is damaged, unsafe or not known"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "inspect", help="say what a weight file or a graph holds", description="Show a bundle's metadata and tensors, or a graph's nodes.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("files", nargs="*", metavar="FILE", help="a .safetensors bundle or LoRA, a graph (.json) or a picture with a graph")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--json", action="store_true", help="write the description as JSON to stdout")
    parser.add_argument("--manifest", action="store_true", help="compare weights/ with its manifest")
    parser.add_argument("--write-manifest", action="store_true", help="write weights/manifest.json again from the files")


def run(args: argparse.Namespace) -> int:
    from ..core.errors import RapidDrawError

    if args.manifest or args.write_manifest:
        return _manifest(args.write_manifest)
    if not args.files:
        note("inspect needs a file, or --manifest; see `python -m rapiddraw inspect --help`")
        return 2
    described: dict[str, Any] = {}
    code = 0
    for name in args.files:
        try:
            described[name] = describe(Path(name))
        except RapidDrawError as error:
            note(f"{name}: {error}")
            code = 2
    if args.json:
        say_json(described)
    else:
        for name, entry in described.items():
            _show(name, entry, args.tensors)
    return code


def describe(path: Path) -> dict[str, Any]:
    """Return a bundle, a LoRA of this pack or a graph as plain data; tensors are read whole, so that damage is found out.

    Raises :class:`BundleError` or :class:`GraphError`.
    """
    if path.suffix.lower() in (".json", ".png"):
        return _describe_graph(path)
    from ..core.bundles.load import load_bundle
    from ..core.bundles.lora_about import is_own_lora

    if is_own_lora(path):
        return _describe_lora(path)
    bundle = load_bundle(path)  # checks the header first, then every value
    meta = {key: value for key, value in asdict(bundle.info).items() if key != "path" and value not in (None, {})}
    return meta | _contents(path, bundle.tensors)


def _describe_lora(path: Path) -> dict[str, Any]:
    from ..core.bundles.format import load_foreign
    from ..core.bundles.lora_about import read_about
    from ..core.bundles.manifest import LORA

    told = read_about(path)
    provenance = told.pop("provenance", {})
    return {"kind": LORA, "config": told, "provenance": provenance} | _contents(path, load_foreign(path))


def _contents(path: Path, tensors: dict[str, Any]) -> dict[str, Any]:
    listed = {name: [str(t.dtype).removeprefix("torch."), *t.shape] for name, t in tensors.items()}
    return {"bytes": path.stat().st_size, "parameters": sum(t.numel() for t in tensors.values()), "tensors": listed}


def _describe_graph(path: Path) -> dict[str, Any]:
    from ..core.graph.formats import as_api, read_graph

    api = as_api(read_graph(path), registry())
    nodes = [{"id": key, "class": node["class_type"], "title": node.get("_meta", {}).get("title", "")} for key, node in api.items()]
    return {"kind": "graph", "bytes": path.stat().st_size, "nodes": nodes}


def _show(name: str, entry: dict[str, Any], every_tensor: bool) -> None:
    say(f"{name}: {entry['kind']}, {entry['bytes'] / 1e6:.2f} MB")
    if entry["kind"] == "graph":
        for node in entry["nodes"]:
            say(f"    {node['id']:>4}  {node['class']}" + (f"  ({node['title']})" if node["title"] else ""))
        return
    tensors = entry["tensors"]
    dtypes = sorted({row[0] for row in tensors.values()})
    say(f"    {len(tensors)} tensors, {entry['parameters'] / 1e6:.2f} million values, {', '.join(dtypes)}")
    for key in ("config", "latent", "schedule", "cfg_baked", "provenance", "extra"):
        if entry.get(key):
            say(f"    {key}: {_short(entry[key])}")
    groups: dict[str, int] = {}
    for tensor in tensors:
        group = tensor.split(".")[0]
        groups[group] = groups.get(group, 0) + 1
    if every_tensor:
        for tensor, (dtype, *shape) in tensors.items():
            say(f"    {tensor}  {dtype} {tuple(shape)}")
    else:
        say("    parts: " + ", ".join(f"{group} ({count})" for group, count in groups.items()))


def _short(value: Any) -> str:
    """A value on one line: long lists (a vocabulary, triples) by their length."""
    if isinstance(value, dict):
        if len(value) > 30:
            return f"{{{len(value)} entries}}"
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items() if item not in (None, {}, [], ""))
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"[{len(value)} entries]"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _manifest(write: bool) -> int:
    from ..core.bundles.manifest import check_manifest, read_manifest, write_manifest
    from ..core.paths import pack_root

    folder = pack_root() / "weights"
    if write:
        say(f"wrote {write_manifest(folder)}")
    problems = check_manifest(folder)
    for problem in problems:
        note(problem)
    entries = read_manifest(folder)
    for name, entry in entries.items():
        say(f"{entry['sha256'][:16]}  {entry['bytes'] / 1e6:6.2f} MB  {entry['kind']:<8} {name}")
    say(f"{len(entries)} files, {sum(entry['bytes'] for entry in entries.values()) / 1e6:.1f} MB in all")
    return 2 if problems else 0
