"""Output of the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

from ..core.progress import TerminalReporter


def say(text: str = "") -> None:
    """Write one line of the command's result to stdout."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """Write one line about progress or a problem to stderr, so that it never mixes with a result."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    """Write a line. A character that the terminal's encoding does not have, or half of one, is written as an escape."""
    with TerminalReporter.aside():
        _write_line(stream, text)


def _write_line(stream: TextIO, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def say_json(data: Any) -> None:
    """Write a result as JSON to stdout; what JSON cannot hold becomes text."""
    say(json.dumps(data, indent=2, ensure_ascii=False, default=str))
