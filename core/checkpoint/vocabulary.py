"""Tokenizer of CLIP. A single-file checkpoint holds no vocabulary, so one that is already on this machine is used; none is downloaded."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import BundleError

TOKENS = 49408  # of OpenAI's CLIP, start and end included
_BPE_PACKAGES = ("open_clip", "clip")  # both ship OpenAI's list of merges under this name
_BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MAX_BPE_BYTES = 16 * 2**20


def read_tokenizer(folder: Path) -> Any:
    """Return transformers' CLIPTokenizer from a folder with `vocab.json` and `merges.txt`, or `tokenizer.json`. Raises
    :class:`BundleError`."""
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise what they like
        raise BundleError(f"{folder} holds no CLIP tokenizer ({str(error).strip().splitlines()[0][:200]})") from error
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise BundleError(f"{folder} holds a tokenizer without start and end token: that is none of CLIP's")
    return tokenizer


def find_tokenizer(checkpoint: Path) -> Any:
    """Return the tokenizer for a single-file checkpoint: of a folder `tokenizer` beside it, of the ComfyUI in `$COMFYUI_PATH`, or made of
    the merges that an installed open_clip (or OpenAI's clip) brings along. Raises :class:`BundleError` saying what to do where there is
    none.
    """
    folders = [checkpoint.parent / "tokenizer"]
    if comfyui := os.environ.get("COMFYUI_PATH", "").strip():
        folders.append(Path(comfyui).expanduser() / "comfy" / "sd1_tokenizer")
    for folder in folders:
        if folder.is_dir():
            return read_tokenizer(folder)
    for package in _BPE_PACKAGES:
        if (path := _shipped_merges(package)) is not None:
            return from_merges(path)
    raise BundleError(
        f"{checkpoint.name} is a single file, which does not hold CLIP's vocabulary. Put vocab.json and merges.txt (they are in the folder "
        f"'tokenizer' of any Stable Diffusion in diffusers format) into {folders[0]}, or set COMFYUI_PATH to the folder of a ComfyUI, "
        "which ships them, or `pip install open_clip_torch`"
    )


def from_merges(path: Path) -> Any:
    """Return CLIP's tokenizer from OpenAI's gzipped list of merges: bytes, bytes that end a word, merges in order, start and end."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read(_MAX_BPE_BYTES).splitlines()
    letters = _byte_letters()
    merges = lines[1 : 1 + TOKENS - 2 - 2 * len(letters)]  # the first line is a comment; the file lists more than were used
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
        return read_tokenizer(Path(folder))


def _byte_letters() -> list[str]:
    """A printable letter for each byte, in the order that CLIP numbers them: printable bytes are their own letter and come first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + number) for number in range(others)]


def _shipped_merges(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)  # finds the package without importing it
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _BPE_FILE
        if path.is_file():
            return path
    return None
