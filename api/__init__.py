"""Python interface: graphs are run, checked and changed from a script or a notebook. :mod:`rapiddraw` gives these names on first use."""

from ..core.errors import Cancelled, GraphError, InputError, InvalidGraphError, NodeError, RapidDrawError
from ..core.graph.validate import Problem
from .editable import EditableGraph, load, run, validate
from .outputs import Outputs

__all__ = [
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
