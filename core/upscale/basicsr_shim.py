"""Import of basicsr, whose release 1.4.2 needs a torchvision module that no longer exists. No other module imports basicsr.

`basicsr.data.degradations` imports `torchvision.transforms.functional_tensor.rgb_to_grayscale`. The module was removed in torchvision 0.17;
the function is now in `torchvision.transforms.functional`. A stand-in of the old name is registered while basicsr is imported and removed
afterwards, so that no other code can depend on it.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from ..errors import MissingPackageError

log = logging.getLogger("rapiddraw")
_GONE = "torchvision.transforms.functional_tensor"


@contextmanager
def functional_tensor_shim() -> Iterator[None]:
    """Provide the removed torchvision module inside the `with` block only; a torchvision that still has it is not changed."""
    try:
        importlib.import_module(_GONE)
    except ImportError:
        from torchvision.transforms import functional

        stand_in = types.ModuleType(_GONE)
        stand_in.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules[_GONE] = stand_in
        try:
            yield
        finally:
            sys.modules.pop(_GONE, None)
    else:
        yield


@lru_cache(maxsize=1)
def _import_basicsr() -> tuple[Any, Any] | str:
    """Return `(RRDBNet, UNetDiscriminatorSN)`, or the reason why the import fails. Tried once in a process: a failing import is slow."""
    try:
        # The package imports all its files, so that a user who upscales would see warnings of its data and metrics code.
        with functional_tensor_shim(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rrdb = importlib.import_module("basicsr.archs.rrdbnet_arch")
            discriminator = importlib.import_module("basicsr.archs.discriminator_arch")
        return rrdb.RRDBNet, discriminator.UNetDiscriminatorSN
    except Exception as error:  # an old compiled dependency may raise anything on import (cv2 without libGL, numpy's ABI)
        absent = isinstance(error, ModuleNotFoundError) and error.name == "basicsr"
        reason = "it is not installed" if absent else f"importing it failed ({type(error).__name__}: {error})"
        log.log(logging.DEBUG if absent else logging.WARNING, "basicsr is not used: %s", reason)
        return reason


def available() -> bool:
    """Return whether basicsr can be imported here. The first call imports it, which takes seconds."""
    return not isinstance(_import_basicsr(), str)


def rrdbnet_class() -> Any:
    """Return basicsr's `RRDBNet`. Raises :class:`MissingPackageError` with the reason where basicsr cannot be imported."""
    return _classes()[0]


def discriminator_class() -> Any:
    """Return basicsr's `UNetDiscriminatorSN` (the U-Net critic of Real-ESRGAN). Raises :class:`MissingPackageError`."""
    return _classes()[1]


def _classes() -> tuple[Any, Any]:
    found = _import_basicsr()
    if isinstance(found, str):
        raise MissingPackageError(
            f"this needs basicsr, but {found}. On Python 3.12 or older, with torch installed: "
            "`pip install --no-build-isolation basicsr` (newer Pythons cannot build it)"
        )
    return found
