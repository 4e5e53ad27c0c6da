"""Processes of `accelerate launch -m rapiddraw run`: each runs the whole graph; a Picard sampler's window is shared among them."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile

from ..core.diffusion.samplers.levels import share_among_processes
from ..core.train.processes import join_processes


def join_run(output: str | None) -> str | None:
    """Join the processes of this run and return the folder for this one's pictures: `output` in the first, else one that ends with it.

    Only the first process writes to the terminal. Raises :class:`MissingPackageError` where accelerate is not installed.
    """
    processes = join_processes()
    share_among_processes(processes.index, processes.count)
    if processes.main:
        return output
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    folder = tempfile.TemporaryDirectory(prefix="rapiddraw-")
    atexit.register(folder.cleanup)
    return folder.name
