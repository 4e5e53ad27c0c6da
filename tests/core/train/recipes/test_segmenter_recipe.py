"""The segmenter's recipe learns, from drawn pictures and from a folder, and says what its test IoU is."""

import pytest
from rapiddraw.core.bundles.format import read_info
from rapiddraw.core.control.segmenter import load_segmenter
from rapiddraw.core.errors import DataError
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.train import make_recipe
from rapiddraw.core.train.loop import Intervals, train

SMALL = {"size": 64, "widths": (8, 16), "batch_size": 4, "held_out": 2, "warmup": 0, "precision": "no", "ema": 0.0, "degrade": 0.5}


@pytest.mark.parametrize("folder", [False, True])
def test_it_learns_and_writes_a_segmenter(tmp_path, folder):
    data = str(write_dataset("train", 6, 64, tmp_path / "data", maps=("segmentation",))) if folder else ""
    recipe = make_recipe("segmenter", {**SMALL, "data": data})
    result = train(recipe, tmp_path / "s.safetensors", steps=12, run_dir=tmp_path / "run", every=Intervals(log=1))
    assert result.losses[-1][1] < result.losses[0][1]
    assert load_segmenter(result.files[0]).classes[2] == "fruit"
    assert 0 <= read_info(result.files[0], "segmenter").provenance["metrics"]["test_iou"] <= 1


def test_a_folder_without_maps_is_refused(tmp_path):
    data = write_dataset("train", 4, 64, tmp_path / "data")
    with pytest.raises(DataError, match="segmentation"):
        train(make_recipe("segmenter", {**SMALL, "data": str(data)}), tmp_path / "s.safetensors", steps=1, run_dir=tmp_path / "run")
