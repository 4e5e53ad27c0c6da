"""A CLIP Vision model from its file, without ComfyUI, against ComfyUI's own; see probe_clip_vision.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_file_reads_pictures_as_in_comfyui(weights: Path, run_inside: Callable[[str, Path], dict[str, Any]]) -> None:
    found = run_inside("probe_clip_vision.py", weights)
    assert len(found) == 4 and max(found.values()) < 1e-4, found
