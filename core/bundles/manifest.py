"""Manifest of the shipped weight files, with their SHA-256: `weights/manifest.json`.

    {"format": 1, "files": {"orchard-vae.safetensors": {"kind": "vae", "bytes": 1234, "sha256": "...", "provenance": {...}}}}

Written from the files themselves, so it can only be stale, never wrong; a test compares it with the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import BundleError
from ..files import replacing
from ..paths import file_sha256
from .format import read_info
from .lora_about import is_own_lora, read_about

NAME = "manifest.json"
LORA = "lora"
"""The kind of a file that is no bundle, so that stock loaders read it too."""
REWRITE = "`python -m rapiddraw inspect --write-manifest`"
MAX_TOTAL_BYTES = 90 * 10**6


def describe_weights(folder: Path) -> dict[str, dict[str, Any]]:
    """Return one entry for each `.safetensors` file below `folder`. Raises :class:`BundleError` for one that is neither a bundle nor a LoRA
    of this pack."""
    entries = {}
    for path in sorted(folder.rglob("*.safetensors")):
        kind, provenance = _origin(path)
        entries[path.relative_to(folder).as_posix()] = {
            "kind": kind,
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
            "provenance": provenance,
        }
    return entries


def _origin(path: Path) -> tuple[str, dict[str, Any]]:
    """Return (kind, provenance) of a file, from its header alone."""
    if is_own_lora(path):
        provenance = read_about(path).get("provenance", {})
        return LORA, provenance if isinstance(provenance, dict) else {}
    info = read_info(path)
    return info.kind, info.provenance


def write_manifest(folder: Path) -> Path:
    """Write the manifest of `folder` and return its path."""
    text = json.dumps({"format": 1, "files": describe_weights(folder)}, indent=2, sort_keys=True, ensure_ascii=True)
    with replacing(folder / NAME) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return folder / NAME


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest's entries by file name. Raises :class:`BundleError` where it is missing or malformed."""
    path = folder / NAME
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
            raise TypeError("files must be an object of objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} cannot be read ({error}); write it with `python -m rapiddraw inspect --write-manifest`") from error
    return files


def check_manifest(folder: Path) -> list[str]:
    """Return one line for each file that is missing, unlisted or changed since the manifest was written."""
    listed, found = read_manifest(folder), describe_weights(folder)
    problems = [f"{name} is in the manifest but not in {folder.name}/" for name in sorted(listed.keys() - found.keys())]
    problems += [f"{name} is not in the manifest; run {REWRITE}" for name in sorted(found.keys() - listed.keys())]
    for name in sorted(found.keys() & listed.keys()):
        if listed[name] != json.loads(json.dumps(found[name])):
            problems.append(f"{name} is not the file that the manifest describes; run {REWRITE} if that is meant")
    return problems
