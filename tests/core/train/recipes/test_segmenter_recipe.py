"""The segmenter's recipe learns, from drawn pictures and from a folder, and says what its test IoU is."""

import pytest
import torch
from rapiddraw.core.bundles.format import read_info
from rapiddraw.core.control.segmenter import load_segmenter, segment
from rapiddraw.core.errors import DataError
from rapiddraw.core.metrics.control import mean_iou
from rapiddraw.core.metrics.orchard import render_batch
from rapiddraw.core.orchard.dataset import samples, write_dataset
from rapiddraw.core.orchard.render import render_maps
from rapiddraw.core.train import make_recipe
from rapiddraw.core.train.loop import Intervals, train

SMALL = {"size": 64, "widths": (8, 16), "batch_size": 4, "held_out": 2, "warmup": 0, "precision": "no", "ema": 0.0, "degrade": 0.5}


@pytest.mark.parametrize("folder", [False, True])
def test_it_learns_and_writes_a_segmenter(tmp_path, folder):
    data = str(write_dataset("train", 6, 64, tmp_path / "data", maps=("segmentation",))) if folder else ""
    recipe = make_recipe("segmenter", {**SMALL, "data": data})
    result = train(recipe, tmp_path / "s.safetensors", steps=12, run_dir=tmp_path / "run", every=Intervals(log=1))
    assert result.losses[-1][1] < result.losses[0][1]
    segmenter = load_segmenter(result.files[0])
    assert segmenter.classes[2] == "fruit"
    scenes = [sample.scene for sample in samples("test", 2)]
    truth = torch.stack([torch.from_numpy(render_maps(scene, 64)["segmentation"]).long() for scene in scenes])
    iou = mean_iou(segment(segmenter, render_batch(scenes, 64)), truth, len(segmenter.classes))
    assert read_info(result.files[0], "segmenter").provenance["metrics"]["test_iou"] == pytest.approx(iou, abs=0.01)


def test_a_folder_without_maps_is_refused(tmp_path):
    data = write_dataset("train", 4, 64, tmp_path / "data")
    with pytest.raises(DataError, match="segmentation"):
        train(make_recipe("segmenter", {**SMALL, "data": str(data)}), tmp_path / "s.safetensors", steps=1, run_dir=tmp_path / "run")
