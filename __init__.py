"""RapidDraw for ComfyUI: what ComfyUI imports. Heavy libraries are imported when a node first runs.

From Python, `rapiddraw.run`, `rapiddraw.validate` and `rapiddraw.load` run graphs without ComfyUI; see docs/python.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .core.host import adopt_folders
from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

if TYPE_CHECKING:
    from .api import (
        Cancelled,
        EditableGraph,
        GraphError,
        InputError,
        InvalidGraphError,
        NodeError,
        Outputs,
        Problem,
        RapidDrawError,
        load,
        run,
        validate,
    )

WEB_DIRECTORY = "./web"

adopt_folders()

__all__ = [
    "NODE_CLASS_MAPPINGS",
    "NODE_DISPLAY_NAME_MAPPINGS",
    "WEB_DIRECTORY",
    "Cancelled",
    "EditableGraph",
    "GraphError",
    "InputError",
    "InvalidGraphError",
    "NodeError",
    "Outputs",
    "Problem",
    "RapidDrawError",
    "load",
    "run",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Return a name of the Python interface; its modules are imported when it is first asked for."""
    if name in __all__:
        return getattr(importlib.import_module(".api", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
