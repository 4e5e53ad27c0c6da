"""Nothing is lost for want of a writable path: a run asks before it works, and at the end it writes where it can."""

from __future__ import annotations

import errno
import logging
import tempfile
from pathlib import Path

import pytest
from rapiddraw.core.errors import BundleError, InputError, TrainingError, WriteError
from rapiddraw.core.train import loop, losslog, make_recipe
from rapiddraw.core.train.checkpoint import checkpoints
from rapiddraw.core.train.writing import check_writable, write_somewhere
from rapiddraw.tests.core.train.toy import Curve, run, same, weights

FULL = OSError(errno.ENOSPC, "No space left on device")


def full(*_, **__):
    raise FULL


@pytest.fixture
def blocked(tmp_path):
    """A path whose parent is a file: nobody, root included, can write there."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "out.safetensors"


class Counted(Curve):
    ready = 0

    def setup(self, device):
        type(self).ready += 1
        super().setup(device)


@pytest.mark.parametrize("place", ["out", "run"])
def test_a_place_that_cannot_be_written_is_named_before_any_work(tmp_path, blocked, place):
    Counted.ready = 0
    out, folder = (blocked, tmp_path / "run") if place == "out" else (tmp_path / "out.safetensors", blocked / "run")
    with pytest.raises(WriteError, match="cannot write"):
        loop.train(Counted(), out, 4, run_dir=folder, device="cpu")
    assert Counted.ready == 0


@pytest.mark.parametrize(("name", "words"), [("a.pt", r"\.safetensors file"), ("folder", "is a folder")])
def test_a_name_that_no_bundle_can_have_is_refused(tmp_path, name, words):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=words):
        check_writable(tmp_path / name, tmp_path / "run")


def test_asking_leaves_no_file_behind(tmp_path):
    check_writable(tmp_path / "new" / "out.safetensors", tmp_path / "run")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_result_whose_place_is_gone_lies_beside_the_run(tmp_path, monkeypatch, caplog):
    right = run(tmp_path, "right")
    finish = Curve.finish
    monkeypatch.setattr(Curve, "finish", lambda self, out, provenance: full() if out.parent == tmp_path else finish(self, out, provenance))
    with caplog.at_level(logging.WARNING, logger="rapiddraw"):
        result = run(tmp_path, "a")
    assert result.files == [tmp_path / "a" / "a.safetensors"]
    assert same(weights(result.files[0]), weights(right.files[0]))
    assert any(str(result.files[0]) in record.getMessage() for record in caplog.records)


def test_where_nothing_can_be_written_the_checkpoint_stays(tmp_path, monkeypatch):
    finish = Curve.finish
    monkeypatch.setattr(Curve, "finish", full)
    with pytest.raises(TrainingError, match=r"goes on from the last checkpoint"):
        run(tmp_path, "a")
    monkeypatch.setattr(Curve, "finish", finish)
    monkeypatch.setattr(loop._Run, "_one_step", lambda *_: pytest.fail("the training was done already"))
    assert run(tmp_path, "a").files == [tmp_path / "a.safetensors"]


def test_the_temporary_folder_is_the_last_resort(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temp"))
    tried = []

    def write(path: Path) -> Path:
        tried.append(path)
        return path if "temp" in path.parts else full()

    assert write_somewhere(write, tmp_path / "a.safetensors", tmp_path / "run").parent.parent == tmp_path / "temp"
    assert tried[:2] == [tmp_path / "a.safetensors", tmp_path / "run" / "a.safetensors"]


def test_a_full_disk_during_the_run_costs_checkpoints_and_lines_but_not_the_run(tmp_path, monkeypatch, caplog):
    right = run(tmp_path, "right")
    monkeypatch.setattr(loop, "save_checkpoint", full)
    monkeypatch.setattr(loop, "plot_losses", full)
    monkeypatch.setattr(losslog.LossLog, "_append", full)
    with caplog.at_level(logging.WARNING, logger="rapiddraw"):
        result = run(tmp_path, "a")
    assert same(weights(result.files[0]), weights(right.files[0]))
    assert result.plot is None and result.losses == [] and checkpoints(tmp_path / "a") == []
    assert any("checkpoint of step 6 failed" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("text", {"graph": "gone.safetensors"}, "graph: no such file"),
        ("text", {"image_tower": "gone.safetensors"}, "image_tower: no such file"),
        ("unet", {"text": "gone.safetensors,other.safetensors"}, "text: no such file"),
        ("prompt", {"base": "gone.safetensors"}, "base: no such file"),
        ("unet", {"vae": "KIND"}, "vae: .*of kind 'unet'"),
        ("control", {"graph": "KIND"}, "graph: .*of kind 'unet'"),
        ("image_tokens", {"tower": "KIND"}, "tower: .*of kind 'unet'"),
        ("raft", {"scorer": "KIND"}, "scorer: .*of kind 'unet'"),
    ],
)
def test_bundles_are_looked_at_before_any_work(tiny_weights, name, settings, words):
    unet = str(tiny_weights / "tiny-unet.safetensors")
    recipe = make_recipe(name, {key: unet if value == "KIND" else value for key, value in settings.items()})
    with pytest.raises(BundleError, match=words):
        recipe.check_files()
