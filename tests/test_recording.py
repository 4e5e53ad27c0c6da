"""A recording is small, leaves out what stands still, and ends."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rapiddraw.tests.comfyui.recording import FRAMES, SIZE, record, write_animation


def png(colour: tuple[int, int, int]) -> bytes:
    """A screen of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (1920, 1080), colour).save(file, "PNG")
    return file.getvalue()


def test_frames_that_look_alike_are_one_and_the_last_one_is_kept(tmp_path: Path) -> None:
    screens = [png((0, 0, 0)), png((2, 2, 2)), png((200, 0, 0)), png((0, 200, 0))]
    left = screens[1:]
    frames = record(lambda: screens[-len(left) - 1], lambda: left.pop(0), lambda: not left, seconds=60)
    assert [frame.getpixel((5, 5)) for frame in frames] == [(0, 0, 0), (200, 0, 0), (0, 200, 0)] and frames[0].size == SIZE
    with Image.open(write_animation(frames, tmp_path / "run.webp")) as written:
        assert (written.n_frames, written.format) == (3, "WEBP")


def test_a_long_run_becomes_few_frames_and_one_that_never_ends_is_an_error(tmp_path: Path) -> None:
    many = [Image.new("RGB", SIZE, (number * 2, 0, 255 - number * 2)) for number in range(100)]
    with Image.open(write_animation(many, tmp_path / "run.webp")) as written:
        assert 10 < written.n_frames <= FRAMES
    with pytest.raises(TimeoutError, match="not done"):
        record(lambda: png((0, 0, 0)), lambda: None, lambda: False, seconds=0)
