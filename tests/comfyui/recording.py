"""Recording of a run in the editor as one small animated picture."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

SIZE, FRAMES, MAX_BYTES = (960, 540), 40, 2_000_000
SHOWN_MS, LAST_MS = 220, 3000
DIFFERENT = 24
"""Of 255: two frames whose pixels differ by less are one."""


def record(screenshot: Callable[[], bytes], go_on: Callable[[], Any], is_done: Callable[[], bool], seconds: float) -> list[Image.Image]:
    """Return small frames of what is seen until `is_done()`, those that look alike left out. Raises TimeoutError after `seconds`.

    `go_on()` brings what is seen one step on: the number of frames is that of the steps, however long a screenshot takes.
    """
    frames: list[Image.Image] = []
    deadline = time.monotonic() + seconds
    while True:
        done = is_done()
        frame = Image.open(io.BytesIO(screenshot())).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
        if not frames or max(high for _, high in ImageChops.difference(frame, frames[-1]).getextrema()) >= DIFFERENT:
            frames.append(frame)
        if done:
            return frames
        if time.monotonic() > deadline:
            raise TimeoutError(f"the run was not done after {seconds:.0f} s")
        go_on()


def write_animation(frames: list[Image.Image], path: Path) -> Path:
    """Write at most `FRAMES` of the frames, evenly chosen, with the last one shown for longer. Raises ValueError above `MAX_BYTES`."""
    count = min(FRAMES, len(frames))
    chosen = [frames[round(index * (len(frames) - 1) / max(1, count - 1))] for index in range(count)]
    durations = [SHOWN_MS] * (count - 1) + [LAST_MS]
    chosen[0].save(path, save_all=True, append_images=chosen[1:], duration=durations, loop=0, quality=70, method=4)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are for a README")
    return path
