"""Hosts: what runs a model, a text encoder and a VAE for the nodes. Nodes call :func:`current` and never look behind it."""

from __future__ import annotations

import importlib
import sys

from .. import paths
from .protocol import Host
from .run import SamplingRun, Stage

__all__ = ["Host", "SamplingRun", "Stage", "adopt_folders", "current"]

_hosts: dict[str, Host] = {}


def current() -> Host:
    """Return the host of this process: ComfyUI's where ComfyUI runs the pack, else the embedded one. It is made when first asked for.

    ComfyUI counts as running only when it has loaded its own model management; merely having it on the path does not.
    """
    name = "comfy" if "comfy.model_management" in sys.modules else "embedded"
    if name not in _hosts:
        _hosts[name] = Host(name)
    return _hosts[name]


def adopt_folders() -> None:
    """Search ComfyUI's models folder for bundles and use its input, output and temp folders, where ComfyUI imports the pack; elsewhere
    search `weights` in the working folder."""
    if "folder_paths" in sys.modules:
        importlib.import_module(".comfy.folders", __package__).register()
    else:
        paths.add_weights_dir("weights")
