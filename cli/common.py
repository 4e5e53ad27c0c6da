"""What several commands need."""

from __future__ import annotations

import json
import sys
from typing import Any


def say(text: str = "") -> None:
    """One line of the command's result, on stdout."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line about the course of things, on stderr, so that it never mixes with a result."""
    sys.stderr.write(text + "\n")


def say_json(data: Any) -> None:
    """A result as JSON on stdout; what JSON cannot hold becomes text."""
    say(json.dumps(data, indent=2, ensure_ascii=False, default=str))
