"""Headers of `.safetensors` files, and the checks of what they claim.

A header is JSON that may come from anybody: it can claim shapes of a thousand dimensions, numbers of four thousand digits or more bytes
than the file has. Each claim is compared with a limit before anything is computed from it, so that a bad header costs milliseconds.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from ..errors import BundleError

MAX_HEADER_BYTES = 32 * 2**20
MAX_HEADER_VALUES = 2**20
MAX_RANK, MAX_NUMBER = 16, 2**63
METADATA = "__metadata__"
_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of pickles, bare and in a zip file."""
_BYTES_OF = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
    "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


def read_header(path: Path) -> dict[str, Any]:
    """Return the JSON header of a safetensors file, checked against the file's true size before anything is allocated.

    Raises :class:`BundleError` for a file that is missing, a pickle, truncated, or whose header is too large or does not fit the file.
    """
    text, size = _header_text(path)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path.name} is not a safetensors file: its header is not JSON ({str(error)[:200]})") from error
    if not isinstance(header, dict):
        raise BundleError(f"{path.name} is not a safetensors file: its header is not an object")
    end = 0
    for name, entry in header.items():
        if name == METADATA:
            continue
        try:
            end = max(end, _end_of(entry))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{path.name}: the header's entry for tensor {name[:200]!r} is malformed ({str(error)[:200]})") from error
        except BundleError as error:
            raise BundleError(f"{path.name}: tensor {name[:200]!r} {error}") from error
    if 8 + len(text) + end != size:
        raise BundleError(f"{path.name} should be {8 + len(text) + end} bytes long and is {size}: truncated or damaged; copy it again")
    return header


def mentions(path: Path, key: str) -> bool:
    """Return whether the header of a safetensors file has `key` in it anywhere. Quick: nothing is parsed. False for any other file."""
    try:
        return json.dumps(key).encode() in _header_text(path)[0]
    except (BundleError, OSError):
        return False


def _header_text(path: Path) -> tuple[bytes, int]:
    """The unparsed header, and the size of the file."""
    if not path.is_file():
        raise BundleError(f"no such file: {path}. `python -m rapiddraw train --help` lists the recipes that make bundles")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start, opens = file.read(8), file.read(1) == b"{"  # a header's length may begin with the bytes of a pickle; then JSON follows
            if (start[:2] in _PICKLES and not opens) or path.suffix in (".pt", ".pth", ".ckpt", ".pkl"):
                raise BundleError(f"{path.name} is a pickle, which can run code when it is read; only .safetensors bundles are accepted")
            if len(start) < 8:
                raise BundleError(f"{path.name} is {size} bytes long: truncated or empty; copy it again")
            (length,) = struct.unpack("<Q", start)
            if length > MAX_HEADER_BYTES:
                raise BundleError(f"{path.name} claims a header of {length} bytes, more than the {MAX_HEADER_BYTES} allowed: damaged")
            if length + 8 > size:
                raise BundleError(f"{path.name} claims a header of {length} bytes but is {size} bytes long: truncated; copy it again")
            file.seek(len(start))
            text = file.read(length)
    except OSError as error:
        raise BundleError(f"{path} cannot be opened ({error.strerror}); check its permissions") from error
    if text.count(b",") + text.count(b"[") > MAX_HEADER_VALUES:
        raise BundleError(f"{path.name}: its header lists more than {MAX_HEADER_VALUES} values, which no network needs: damaged")
    return text, size


def _end_of(entry: Any) -> int:
    """Where the data of one tensor ends. Raises `KeyError`, `TypeError` or `ValueError` for an entry of another form, and
    :class:`BundleError` where shape and place do not fit each other."""
    first, last = (_number(value) for value in entry["data_offsets"])
    shape = entry["shape"]
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise ValueError(f"a shape is a list of at most {MAX_RANK} numbers")
    expected = _BYTES_OF[entry["dtype"]]
    for dimension in shape:
        if _number(dimension) < 0:
            raise ValueError("a negative dimension")
        expected *= dimension
    if last - first != expected or first < 0:
        claimed = expected if expected < MAX_NUMBER else "more than 2^63"
        raise BundleError(f"claims {claimed} bytes of data but {last - first} are set aside")
    return last


def _number(value: Any) -> int:
    """A dimension or an offset: a whole number within 2^63. Raises `TypeError` or `ValueError` for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a whole number is expected, not a {type(value).__name__}")
    if not -MAX_NUMBER < value < MAX_NUMBER:
        raise ValueError("a number beyond 2^63")
    return value
