"""The file in which the latents of a folder are kept. Nothing in it is believed: every row must prove that it is whole.

The dataset folder may come from anybody and change at any time. A row of latents is used only where its key is the key of a picture, which
is a digest of the picture's whole file and of everything that was done to it, and where its check is the digest of key, shape and values.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...files import replacing
from ..writing import CANNOT_WRITE

logger = logging.getLogger("rapiddraw")
_VERSION = b"2"
_DIGEST = 32  # bytes of a SHA-256


def picture_key(path: Path, how: str) -> bytes:
    """Return the key of the picture in the file `path`, encoded as `how` tells (the VAE, the size): 32 bytes. Raises :class:`DataError`
    where the file cannot be read."""
    digest = hashlib.sha256(_VERSION + how.encode() + b"\0")
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check its permissions or remove it") from error
    return digest.digest()


def read_rows(path: Path, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
    """Return the sound rows of the cache `path` under those of `keys` that it holds: key -> (C, h, w) float16. {} for a file that is
    missing or no cache."""
    from safetensors import SafetensorError, safe_open

    found: dict[bytes, Tensor] = {}
    if not path.is_file():
        return found
    wanted = set(keys)
    try:
        with safe_open(path, "np") as file:
            parts = {name: file.get_slice(name) for name in ("latents", "keys", "checks")}
            shape = parts["latents"].get_shape()
            types = [parts[name].get_dtype() for name in ("latents", "keys", "checks")]
            sides = [parts[name].get_shape() for name in ("keys", "checks")]
            # A header may claim anything: a file of many more rows than the folder has pictures is not read.
            if types != ["F16", "U8", "U8"] or len(shape) != 4 or sides != [[shape[0], _DIGEST]] * 2 or shape[0] > 10 * len(keys) + 1000:
                raise ValueError(f"{types} of {[shape, *sides]} are no latents")
            listed, checks = parts["keys"][:], parts["checks"][:]
            for row, key in enumerate(map(bytes, listed)):
                if key in wanted and key not in found:
                    values = np.ascontiguousarray(parts["latents"][row : row + 1][0])
                    if bytes(checks[row]) == _check(key, values) and bool(np.isfinite(values).all()):
                        found[key] = torch.from_numpy(values)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        logger.warning("%s is damaged (%s); its pictures are encoded again", path, error)
    return found


def write_rows(path: Path, rows: Mapping[bytes, Tensor]) -> bool:
    """Write `rows` (key -> (C, h, w) float16) to the cache `path`; return whether it could be written."""
    from safetensors.numpy import save_file

    keys, values = list(rows), [np.ascontiguousarray(latents.numpy()) for latents in rows.values()]
    tensors = {
        "latents": np.stack(values),
        "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _DIGEST),
        "checks": np.frombuffer(b"".join(map(_check, keys, values)), np.uint8).reshape(-1, _DIGEST),
    }
    try:
        with replacing(path) as temporary:
            save_file(tensors, str(temporary))
    except CANNOT_WRITE as error:  # a read-only dataset is no reason to fail
        logger.info("latents are not kept, so that they are encoded again next time: %s cannot be written (%s)", path, error)
        return False
    return True


def _check(key: bytes, values: np.ndarray[Any, Any]) -> bytes:
    return hashlib.sha256(key + repr(values.shape).encode() + values.tobytes()).digest()
