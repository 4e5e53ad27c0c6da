"""core.files: whole or not at all, one name for one file, one error for whatever cannot be written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rapiddraw.core.errors import Cancelled, RapidDrawError, WriteError
from rapiddraw.core.files import check_writable, replacing, write_numbered

WRITER = """
import sys
import torch
from pathlib import Path
from rapiddraw.core.paths import set_dirs
set_dirs(output=sys.argv[1])
image = torch.full((1, 4, 4, 3), float(sys.argv[2]))
if sys.argv[3] == "stock":
    from rapiddraw.core.graph.stock.image_files import SaveImage
    save = lambda: SaveImage().save_images(image, "deep/same")
else:
    from rapiddraw.nodes.image import SaveMarkedImage
    save = lambda: SaveMarkedImage().execute(image, "deep/same")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(200):
    save()
"""


@pytest.mark.parametrize("node", ["stock", "marked"])
def test_two_writers_of_200_pictures_leave_400(tmp_path, node):
    from PIL import Image

    writers = [
        subprocess.Popen(  # noqa: S603 (our own code)
            [sys.executable, "-c", WRITER, str(tmp_path), shade, node], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for shade in ("0.0", "1.0")
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    files = sorted((tmp_path / "deep").iterdir())
    assert [file.name for file in files] == [f"same_{number:05}_.png" for number in range(1, 401)]
    shades = [Image.open(file).getpixel((0, 0))[0] for file in files]
    assert shades.count(0) == shades.count(255) == 200, "nobody's picture was overwritten"


def write(text):
    return lambda path: path.write_text(text)


def numbered(folder, text="x", first=1):
    return write_numbered(folder, lambda number: f"f_{number}.txt", first, write(text))


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_taken_number_is_passed_over_and_never_touched(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "f_1.txt").write_text("old")
    (tmp_path / "f_3.txt").symlink_to(tmp_path / "nowhere")
    assert [numbered(tmp_path, str(i)) for i in range(2)] == [(tmp_path / "f_2.txt", 2), (tmp_path / "f_4.txt", 4)]
    assert (tmp_path / "f_1.txt").read_text() == "old" and not (tmp_path / "nowhere").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"f_{i}.txt" for i in (1, 2, 3, 4)]


def fails(error):
    def write(path):
        path.write_text("half")
        raise error

    return write


class SafetensorError(Exception):
    """Named as the one that safetensors raises for a full disk."""


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError("odd"), SafetensorError("No space left on device")]
)
def test_an_error_while_writing_names_the_file_and_leaves_nothing(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    for attempt in (
        lambda: write_numbered(tmp_path, lambda number: "b.txt", 1, fails(error)),
        lambda: replaced(tmp_path / "a.txt", fails(error)),
    ):
        with pytest.raises(WriteError, match=r"cannot write .*[ab]\.txt \((No space|odd)") as caught:
            attempt()
        assert isinstance(caught.value, RapidDrawError) and isinstance(caught.value, OSError) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def replaced(path, write):
    with replacing(path) as temporary:
        write(temporary)


@pytest.mark.parametrize("error", [Cancelled("stop"), ValueError("no"), KeyboardInterrupt()])
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        replaced(tmp_path / "a.txt", fails(error))
    assert caught.value is error and list(tmp_path.iterdir()) == []


def test_places_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").write_text("x")
    for path in (tmp_path / "file" / "a.txt", tmp_path / "folder", Path("/proc/a.txt"), tmp_path / ("n" * 300)):
        with pytest.raises(WriteError, match="cannot write"):
            replaced(path, write("x"))
    for folder in (tmp_path / "file", tmp_path / "file" / "deep", Path("/proc/none")):
        with pytest.raises(WriteError, match="cannot write"):
            check_writable(folder)
    check_writable(tmp_path / "new" / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"], "asking makes nothing"


def test_files_are_as_readable_as_any_other(tmp_path):
    path, _ = numbered(tmp_path)
    before = os.umask(0)
    os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~before
