"""ComfyUI's own executor as an engine: any graph that this ComfyUI can run, in this process, without a server."""

from __future__ import annotations

import copy
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import InputError, InvalidGraphError, NodeError
from ..core.files import check_writable
from ..core.graph.execute import NodeEvent, RunResult
from ..core.graph.formats import Graph
from ..core.graph.inputs import Registry, describe
from ..core.graph.validate import Problem
from ..core.host.comfy.headless import ComfyProcess, Places, start
from ..core.paths import pack_root


def comfy_folder() -> Path:
    """Return the ComfyUI of `$COMFYUI_PATH`. Raises :class:`InputError` where it is not set or names no ComfyUI."""
    given = os.environ.get("COMFYUI_PATH", "").strip()
    if not given:
        raise InputError("--host comfy needs the environment variable COMFYUI_PATH: set it to the folder of a ComfyUI (with its main.py)")
    folder = Path(given).expanduser().resolve()
    if not (folder / "main.py").is_file():
        raise InputError(f"COMFYUI_PATH={given} holds no ComfyUI; set it to the folder with ComfyUI's main.py")
    return folder


class ComfyEngine:
    """The ComfyUI of `$COMFYUI_PATH`, started in this process with the arguments of `$COMFYUI_ARGS`. See :class:`~.engines.Engine`."""

    def __init__(self, input: str | None = None, output: str | None = None, is_verbose: bool = False) -> None:
        made = Path(output) if output else Path("out")
        places = Places(comfy_folder(), pack_root(), Path(input) if input else None, made, made / "temp" if output else Path("temp"))
        try:
            arguments = ["--verbose", "DEBUG" if is_verbose else "WARNING", *shlex.split(os.environ.get("COMFYUI_ARGS", ""))]
        except ValueError as error:
            raise InputError(f"COMFYUI_ARGS cannot be read ({error}); write it as on a command line") from error
        self._comfy: ComfyProcess = start(places, arguments)
        self._ready: tuple[Graph | None, dict[str, Any], list[str]] = (None, {}, [])
        self.registry: Registry = self._comfy.node_classes

    def check(self, graph: Graph) -> None:
        """See :meth:`Engine.check`. ComfyUI's own check is the one that counts; classes that it does not have are all named."""
        self._ready = (graph, *self._checked(graph))

    def _checked(self, graph: Graph) -> tuple[dict[str, Any], list[str]]:
        """Return what ComfyUI runs of `graph`: the prompt, whose values its check turns into the types of their inputs, and the outputs."""
        prompt = copy.deepcopy(graph.to_api(self.registry))
        missing = [node_id for node_id, node in prompt.items() if node.get("class_type") not in self.registry]
        if missing:
            hint = "this ComfyUI has no such node class; install the pack that brings it"
            raise InvalidGraphError([_problem(node_id, hint, prompt) for node_id in missing])
        found, outputs = self._comfy.problems(prompt)
        if found:
            raise InvalidGraphError([_problem(node_id, text, prompt) for node_id, text in found])
        if any("filename_prefix" in prompt[node_id]["inputs"] for node_id in outputs):
            check_writable(self.folders()["output"])
        return prompt, [node_id for node_id in prompt if node_id in outputs]

    def run(self, graph: Graph, on_node: Callable[[NodeEvent], None] | None = None) -> RunResult:
        """See :meth:`Engine.run`. Steps inside a node are told too, as `NodeEvent.steps`.

        Another thread may have checked another graph since; this one is then checked again."""
        checked, prompt, outputs = self._ready
        if checked is not graph:
            prompt, outputs = self._checked(graph)
        done = [-1]

        def hear(event: str, data: dict[str, Any]) -> None:
            node_id = str(data.get("display_node") or data.get("node"))
            if on_node is None or node_id not in prompt or event not in ("executing", "progress"):
                return
            done[0] += event == "executing"
            steps = (int(data["value"]), int(data["max"])) if event == "progress" else None
            on_node(NodeEvent(node_id, prompt[node_id]["class_type"], describe(node_id, prompt[node_id]), done[0], steps))

        try:
            ran = self._comfy.run(prompt, graph.ui, outputs, hear)
        except NodeError as error:
            where = (
                describe(error.node_id, prompt[error.node_id]) if error.node_id in prompt else f"node {error.node_id} {error.class_type}"
            )
            text = str(error)
            joint = " " if text.startswith("failed with ") else ": "
            raise NodeError(where + joint + text, error.node_id, error.class_type) from error
        in_order = {node_id: ran.outputs[node_id] for node_id in prompt if node_id in ran.outputs}
        return RunResult(outputs=in_order | ran.outputs, seconds=ran.seconds, cached=ran.cached)

    def folders(self) -> dict[str, Path]:
        """See :meth:`Engine.folders`."""
        return self._comfy.folders


def _problem(node_id: str, text: str, prompt: dict[str, Any]) -> Problem:
    node = prompt.get(node_id)
    return Problem("invalid_prompt", f"{describe(node_id, node)}: {text}" if node else text, node_id)
