"""Loading of bundles, including those that hold only what differs from another bundle.

A U-Net fine-tuned in a few layers shares all the others with its base. Its bundle has a whole config and
`extra["base"] = {"name", "sha256"}`. :func:`load_bundle` completes it from the base, which lies beside it or in a weights folder, and
must be the very file that it was made from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BundleError, InputError
from ..paths import file_sha256, model_path, weights_dirs
from .format import Bundle, BundleInfo, load_tensors, read_info

if TYPE_CHECKING:
    from torch import Tensor

BASE = "base"


def load_bundle(path: str | os.PathLike[str], kind: str | None = None) -> Bundle:
    """Read a whole bundle: header first, then tensors, then a check that every value is finite (:class:`BundleError`).

    One that holds only what differs from another is completed (:func:`completed`)."""
    info = read_info(path, kind)
    return completed(Bundle(info, load_tensors(Path(path))))


def difference(tensors: Mapping[str, Tensor], info: BundleInfo, base: Path) -> tuple[dict[str, Tensor], BundleInfo]:
    """Return the tensors of a network that are new or differ from those of the bundle at `base`, and `info` that names
    this bundle."""
    first = load_bundle(base, info.kind).tensors
    own = {key: tensor for key, tensor in tensors.items() if key not in first or not _equal(tensor, first[key])}
    return own, replace(info, extra={**info.extra, BASE: {"name": base.name, "sha256": file_sha256(base)}})


def completed(bundle: Bundle) -> Bundle:
    """Return `bundle` with every tensor that it shares with its base; the same bundle where it names none. Raises :class:`BundleError`
    where the base is missing, is another file, or shares weights itself."""
    if BASE not in bundle.info.extra:
        return bundle
    name = bundle.info.path.name if bundle.info.path else "the bundle"
    path = _base_of(bundle, name)
    if BASE in read_info(path, bundle.info.kind).extra:
        raise BundleError(f"{name}: its base {path.name} shares weights with a third file; that is not read")
    extra = {key: value for key, value in bundle.info.extra.items() if key != BASE}
    return Bundle(replace(bundle.info, extra=extra), {**load_bundle(path, bundle.info.kind).tensors, **bundle.tensors})


def _base_of(bundle: Bundle, name: str) -> Path:
    given: Any = bundle.info.extra[BASE]
    wanted = given.get("name") if isinstance(given, dict) else None
    if not isinstance(wanted, str) or not isinstance(given.get("sha256"), str):
        raise BundleError(f"{name}: its metadata does not name its base as a name and a sha256; write the bundle again")
    folders = ([bundle.info.path.parent] if bundle.info.path else []) + weights_dirs()
    try:
        found = [path for path in (model_path(folder, wanted) for folder in folders) if path.is_file()]
    except InputError as error:
        raise BundleError(f"{name}: {error}") from error
    for path in found:
        if file_sha256(path) == given["sha256"]:
            return path
    there = "is another file than the one it was made from" if found else "is not there"
    raise BundleError(f"{name} holds only what differs from {wanted}, and {wanted} {there}: put the right one beside it")


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one.detach().cpu() == other.to(one.dtype)).all())
