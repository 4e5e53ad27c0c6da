"""Weight files of upscalers, which may come from anybody: read without running code, and reduced to plain float32 tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bundles.format import load_foreign, read_info
from ..checkpoint.pickled import read_pickled
from ..errors import BundleError
from .find import NCNN, PICKLED
from .layouts import prefix_of, unwrap
from .ncnn import read_ncnn


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name, without their wrappers, as float32 on the CPU.

    A `.pth` is read by :func:`read_pickled`, which runs nothing in the file; a `.param` by :func:`read_ncnn`.

    Raises :class:`BundleError`, which names the file, for one that is missing, damaged, unsafe, compressed or of another kind, and what
    :func:`plain_tensors` raises.
    """
    try:
        if path.suffix.lower() == NCNN:
            return plain_tensors(read_ncnn(path))
        if path.suffix.lower() not in PICKLED:
            tensors = load_foreign(path)
            if prefix_of(tensors) is None:
                read_info(path, "esrgan")  # raises, and says what the file is where it is a bundle
            return plain_tensors(unwrap(tensors))
        return plain_tensors(unwrap(read_pickled(path)))
    except BundleError as error:
        raise error if path.name in str(error) else BundleError(f"{path.name}: {error}") from error


def plain_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return `state` as float32 tensors; half precision, float8 and integers are converted.

    Raises :class:`BundleError`, which names the tensor, for values that are NaN or infinite, and for tensors that are sparse, nested,
    quantized or complex, or that claim more numbers than are stored.
    """
    plain = {}
    for key, tensor in state.items():
        odd = _oddity(tensor)
        if odd is not None:
            raise BundleError(f"tensor {key!r:.120} {odd}; save the network again as plain float32 or float16 weights")
        try:
            plain[key] = tensor.detach().float()
        except (RuntimeError, TypeError) as error:
            raise BundleError(f"tensor {key!r:.120} has the type {tensor.dtype}, which cannot be converted to float32") from error
        if not bool(plain[key].isfinite().all()):
            raise BundleError(f"tensor {key!r:.120} holds values that are NaN or infinite; the file is unusable")
    return plain


def _oddity(tensor: Any) -> str | None:
    """Return what is odd about a tensor, or None for a plain one."""
    if not isinstance(tensor, Tensor):
        return f"is a {type(tensor).__name__}, not a tensor"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "is sparse or nested"
    if tensor.is_meta:
        return "has a shape but no values (it was saved from the device meta)"
    if tensor.is_quantized or tensor.is_complex():
        return f"has the type {tensor.dtype}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"claims {tensor.numel():,} values, more than the file holds"
    return None
