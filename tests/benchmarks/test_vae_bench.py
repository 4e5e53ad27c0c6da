"""bench vae: the shipped VAE, others beside it, and shapes trained for equally long."""

from __future__ import annotations

import argparse

import pytest
from rapiddraw.benchmarks import vae
from rapiddraw.core.errors import InputError
from rapiddraw.tests.helpers import write_vae


def options(tmp_path, **changes) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    vae.add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), "count": 6, "folder": tmp_path, **changes})


def test_the_shipped_vae_stands_beside_another(tmp_path):
    outcome = vae.run(options(tmp_path, weights=str(write_vae(tmp_path / "other.safetensors"))))
    shipped, other = outcome["rows"]
    assert (shipped["VAE"], other["VAE"]) == ("shipped", "other")
    assert shipped["PSNR"] > 20 > other["PSNR"] and 0 < shipped["gradient energy"] < 1
    assert len(outcome["checks"]) == 2


def test_shapes_are_trained_once(tmp_path, monkeypatch):
    small = {"widths": (32, 32), "latent_channels": 2, "batch_size": 1, "precision": "no", "size": 64}
    monkeypatch.setattr(vae, "SHAPES", {"32 x 2": small})
    monkeypatch.setattr(vae, "MOST_STEPS", 2)
    data = tmp_path / "data"
    from rapiddraw.core.orchard.dataset import write_dataset

    write_dataset("train", 2, 64, data)
    arguments = options(tmp_path, rows="shapes", data=str(data), count=2)
    (row,) = vae.run(arguments)["rows"]
    assert row["VAE"] == "32 x 2" and row["channels"] == 2
    written = (tmp_path / "32-x-2.safetensors").stat().st_mtime_ns
    assert vae.run(arguments)["rows"] == [row] and (tmp_path / "32-x-2.safetensors").stat().st_mtime_ns == written


def test_unknown_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match="colours"):
        vae.run(options(tmp_path, rows="shipped,colours"))
