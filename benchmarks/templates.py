"""Conversion of ComfyUI's own templates, compared with the editor's: every template of `comfyui-workflow-templates`.

    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench templates
    COMFYUI_PATH=/where/ComfyUI python -m rapiddraw bench templates --only default,image_qwen_image

ComfyUI is started with its own nodes, the nodes for paid services included. Its editor runs in a headless Chromium, loads each template and
converts it to the API format. `core/graph` reads the same file and converts it, with the inputs of the node classes as the server lists
them. `COMFYUI_PYTHON` is ComfyUI's interpreter, `CHROMIUM` the browser. Two conversions are equal where they have the same nodes under the
same ids, with the same classes, links and values. Not compared are the order of keys, the titles in `_meta` (texts for people, in the
editor's language), whole numbers written as 1 or 1.0, and inputs that only the editor has: the server does not declare them, so it ignores
them. A template with a node whose class the server does not have is named and left out of the share.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, Expectation, at_least, equal, exact
from .comfy_inside import comfyui_python, needed_comfyui

log = logging.getLogger("rapiddraw")
PACKAGE = "comfyui_workflow_templates_json"
TABS = 130
"""Templates that one tab of the browser loads. The editor keeps each of them open, so that a tab grows."""
_READY = "window.app && app.vueAppReady && app.extensionManager && document.querySelector('canvas') && app.graph.nodes.length > 0"
_CONVERT = "await app.loadGraphData(args[0]); return JSON.stringify((await app.graphToPrompt()).output);"
_FOLDER = f"from importlib import resources; print(resources.files({PACKAGE!r}) / 'templates')"
Prompt = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench templates`."""
    parser.add_argument("--comfyui", help="folder of ComfyUI (default: $COMFYUI_PATH)")
    parser.add_argument("--only", metavar="NAMES", help="names of templates, with commas between them (default: all)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    templates = exact(len(args.only.split(",")) if args.only else 506, "templates")
    equals = "share of templates that are converted as the editor converts them, of those whose nodes exist, in percent"
    return {
        "equal": Expectation(equals, at_least(98), CHOSEN, templates),
        "unread": Expectation("templates that cannot be read or converted", equal(0), CHOSEN, templates),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert every template in both ways and return the result (see :func:`common.result`).

    Raises :class:`InputError` without a ComfyUI, its templates or a Chromium.
    """
    from ..core.errors import InputError
    from ..core.paths import pack_root
    from .browser import Page, find_browser
    from .comfy_server import Server

    wanted, comfyui, browser = expectations(args), needed_comfyui(args.comfyui), find_browser()
    if browser is None:
        raise InputError("this benchmark needs a Chromium: install one (apt-get install chromium) or set CHROMIUM to its path")
    files = templates()
    names = common.chosen_names(args.only, sorted(files), "template")
    with tempfile.TemporaryDirectory(prefix="rapiddraw-templates-") as folder:
        server = Server(comfyui, comfyui_python(), Path(folder), pack_root(), pack_root() / "weights", api_nodes=True)
        server.start()
        page = Page(browser, Path(folder) / "chromium")
        try:
            version = server.get("/system_stats")["system"].get("comfyui_version", "unknown")
            info = server.get("/object_info")
            server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
            registry = registry_of(info)
            rows = [_row(name, files[name], editor, info, registry) for name, editor in _editors(page, server.port, names, files)]
        finally:
            page.close()
            server.stop()
    known = [row for row in rows if not row.get("unknown_nodes")]
    share = 100 * sum(row["equal"] for row in known) / len(known) if known else 0.0
    checks = [wanted["equal"].judge(share), wanted["unread"].judge(sum(not row["converted"] for row in rows))]
    command = "COMFYUI_PATH=... python -m rapiddraw bench templates" + (f" --only {','.join(names)}" if args.only else "")
    return common.result("templates", command, rows, checks, settings={"comfyui": version}, notes=_notes(rows, known))


def templates() -> dict[str, Path]:
    """Return the files of the templates by name. Raises :class:`InputError` where ComfyUI's interpreter has no package of templates."""
    from ..core.errors import InputError

    done = subprocess.run([comfyui_python(), "-c", _FOLDER], capture_output=True, text=True, timeout=300)  # noqa: S603 - our own words
    if done.returncode:
        raise InputError(f"{comfyui_python()} has no package {PACKAGE}: install ComfyUI's requirements for it, or set COMFYUI_PYTHON")
    files = sorted(Path(done.stdout.strip()).glob("*.json"))
    return {path.stem: path for path in files if isinstance(_content(path).get("nodes"), list)}


def registry_of(info: Mapping[str, Any]) -> dict[str, type]:
    """Return node classes with the inputs and names that a server lists at `/object_info`. They cannot run."""
    return {
        name: type(
            "Listed",
            (),
            {"INPUT_TYPES": classmethod(lambda cls, entry=entry: entry["input"]), "DISPLAY_NAME": entry.get("display_name") or name},
        )
        for name, entry in info.items()
    }


def differences(ours: Prompt, theirs: Prompt, info: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not equal in two conversions of one graph, in words. `theirs` is the editor's; `info` the server's `/object_info`."""
    for node_id in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(node_id), theirs.get(node_id)
        if one is None or other is None:
            node, side = (other, "the editor's") if one is None else (one, "ours")
            yield f"node only in {side}: {node_id} {node['class_type']}" if node else ""
            continue
        kind = other["class_type"]
        if one["class_type"] != kind:
            yield f"class: {node_id} is {one['class_type']}, the editor's is {kind}"
            continue
        declared = {name for part in ("required", "optional") for name in info.get(kind, {}).get("input", {}).get(part, {})}
        mine, editors = ({name: value for name, value in node["inputs"].items() if name.split(".")[0] in declared} for node in (one, other))
        for name in sorted(mine.keys() | editors.keys()):
            place = f"{node_id} {kind}.{name}"
            if name not in mine:
                yield f"input only in the editor's: {place} = {_short(editors[name])}"
            elif name not in editors:
                yield f"input only in ours: {place} = {_short(mine[name])}"
            elif not _same(mine[name], editors[name]):
                yield f"value: {place} is {_short(mine[name])}, the editor's is {_short(editors[name])}"


def _same(one: Any, other: Any) -> bool:
    """Equal values; true and 1 are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def unknown_nodes(ui: Mapping[str, Any], info: Mapping[str, Any]) -> list[str]:
    """Return the node classes of a graph that the server does not have and that do not exist in the editor only."""
    from ..core.graph.convert import VIRTUAL
    from ..core.graph.subgraphs import open_file

    kinds = {node.type for level, node in open_file(ui).nodes() if node.id not in level.inner}
    return sorted(kinds - info.keys() - set(VIRTUAL))


def _editors(page: Any, port: int, names: list[str], files: Mapping[str, Path]) -> Iterator[tuple[str, Prompt | str]]:
    """Yield, for each template, its name and what the editor makes of it: a prompt, or the text of the editor's error."""
    for place, name in enumerate(names):
        if place % TABS == 0:
            page.fresh()
            page.go(f"http://127.0.0.1:{port}/")
            page.wait(f"{_READY} && true")
        try:
            yield name, json.loads(page.run(_CONVERT, _content(files[name])))
        except RuntimeError as error:
            yield name, str(error).splitlines()[0]


def _row(name: str, path: Path, editor: Prompt | str, info: Mapping[str, Any], registry: Mapping[str, type]) -> dict[str, Any]:
    """Return the cells of one template."""
    from ..core.errors import RapidDrawError
    from ..core.graph.formats import read_graph

    row: dict[str, Any] = {"template": name, "read": False, "converted": False, "equal": False}
    try:
        graph = read_graph(path)
        row["read"] = True
        ours = graph.to_api(registry)
        row["converted"] = True
        missing = unknown_nodes(graph.ui or {}, info)
    except RapidDrawError as error:
        return {**row, "difference": str(error).splitlines()[0]}
    row["nodes"] = len(ours)
    if missing:
        return {**row, "unknown_nodes": ", ".join(missing)}
    if isinstance(editor, str):
        return {**row, "difference": f"the editor fails: {editor}"}
    found = list(differences(ours, editor, info))
    row["equal"] = not found
    if found:
        row["difference"] = found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
        log.info("templates: %s: %s", name, row["difference"])
    return row


def _notes(rows: list[dict[str, Any]], known: list[dict[str, Any]]) -> str:
    named = [row["template"] for row in known if not row["equal"]]
    return (
        f"{len(rows)} templates: {sum(row['read'] for row in rows)} read, {sum(row['converted'] for row in rows)} converted. The nodes of "
        f"{len(known)} exist; {sum(row['equal'] for row in known)} of these are equal to the editor's conversion. "
        f"Not equal: {', '.join(named) or 'none'}."
    )


def _content(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
