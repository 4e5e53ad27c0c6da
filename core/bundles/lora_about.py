"""Metadata of LoRA files that this pack writes; it says what the LoRA is and where it came from. Read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import BundleError
from .header import METADATA, mentions, read_header

ABOUT = "rapiddraw_lora"
"""The one key of a file's metadata: safetensors writes several in an order that changes from run to run."""


def is_own_lora(path: Path) -> bool:
    """Return whether the file at `path` says that it is a LoRA of this pack. Quick: nothing is parsed."""
    return mentions(path, ABOUT)


def read_about(path: Path) -> dict[str, Any]:
    """Return what :func:`~..lowrank.lora_file.save_lora` was told about a LoRA; {} for a file of another program.

    Raises :class:`BundleError` for a damaged file.
    """
    stored = read_header(path).get(METADATA)
    try:
        about = json.loads(stored[ABOUT]) if isinstance(stored, dict) and ABOUT in stored else {}
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path.name}: its {ABOUT!r} metadata cannot be understood ({str(error)[:200]})") from error
    return about if isinstance(about, dict) else {}
