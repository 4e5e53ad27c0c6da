"""Errors that RapidDraw raises on purpose: one tree, so that a caller can catch them all.

A message says what was given, what was expected and how to fix it. Any other error that escapes is a bug.
"""

from __future__ import annotations

from collections.abc import Sequence


class RapidDrawError(Exception):
    """Root of every error that RapidDraw raises on purpose."""

    def __str__(self) -> str:
        """Return the message; half of a surrogate pair, which a name may hold, is escaped so that the message can be printed anywhere."""
        return super().__str__().encode("utf-8", "backslashreplace").decode("utf-8")


class InputError(RapidDrawError, ValueError):
    """A value given by the user is out of range, of the wrong kind, or does not fit another one."""


class WriteError(RapidDrawError, OSError):
    """A file cannot be written: the disk is full or read-only, a permission is missing, a folder stands in its place."""


class BundleError(RapidDrawError):
    """A weight file is missing, damaged, unsafe, or not of the kind that was asked for."""


class KnowledgeError(RapidDrawError):
    """A knowledge-graph file is malformed, too large, or does not match its embeddings."""


class GraphError(RapidDrawError):
    """A graph file cannot be read as a ComfyUI graph (neither UI format, API format nor a PNG that carries one)."""


class DataError(RapidDrawError):
    """A dataset folder does not follow the documented layout."""


class TrainingError(RapidDrawError):
    """A training cannot start or resume, or its loss is no longer finite."""


class MissingPackageError(RapidDrawError, ImportError):
    """An optional package is needed for this and is not installed."""


class Cancelled(RapidDrawError):
    """The user asked to stop. Raised at the next step; no half-written file is left behind."""


class InvalidGraphError(GraphError):
    """A graph was read but cannot run. `problems` lists every reason; the message is one readable line for each."""

    def __init__(self, problems: Sequence[object]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class NodeError(RapidDrawError):
    """A node failed while the graph ran. `node_id` and `class_type` say which; `__cause__` is what it raised."""

    def __init__(self, message: str, node_id: str, class_type: str) -> None:
        super().__init__(message)
        self.node_id, self.class_type = node_id, class_type
