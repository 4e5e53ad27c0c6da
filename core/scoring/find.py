"""Networks that pictures are compared with, among the files of the weights folders. Needs no torch, so that a node can list them."""

from __future__ import annotations

from pathlib import Path

from .. import paths
from ..bundles.find import list_bundles
from ..errors import BundleError

HEADS = ("aesthetic", "linearmse", "vit_l_14_linear", "vit_b_32_linear", "vit_b_16_linear")
"""Words of which one is in the file name of a head; LAION's are among them."""
INCLUDED = "pretrained-orchard-image.safetensors"


def list_networks() -> list[str]:
    """Return the names of `.pth` and `.safetensors` files with `vgg19` in their name, and of image bundles, in the weights folders.

    What a file holds is known only when it is read.
    """
    files = {
        name
        for folder in paths.weights_dirs()
        for name, path in paths.model_files(folder)
        if "vgg19" in path.name.lower() and path.suffix.lower() in (".pth", ".safetensors") and path.is_file()
    }
    return [*sorted(files), *(name for name in list_bundles("image") if name != INCLUDED)]


def list_heads() -> list[str]:
    """Return the names of `.pth`, `.pt` and `.safetensors` files in the weights folders whose names are like those of aesthetic heads."""
    return sorted(
        name
        for folder in paths.weights_dirs()
        for name, path in paths.model_files(folder)
        if any(word in path.name.lower() for word in HEADS) and path.suffix.lower() in (".pth", ".pt", ".safetensors") and path.is_file()
    )


def resolve_network(name: str) -> Path:
    """Return the file of a name from :func:`list_networks` or :func:`list_heads`. Raises :class:`BundleError` for an unknown one."""
    for folder in paths.weights_dirs():
        path = paths.model_path(folder, name)
        if path.is_file():
            return path
    raise BundleError(f"no file named {name!r} in the weights folders; there are {', '.join(list_networks()[:5]) or 'none'}")
