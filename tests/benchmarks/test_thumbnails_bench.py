"""Pictures for the template browser: every graph with a user's models gets stand-ins, and what a graph draws becomes one picture."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from rapiddraw.benchmarks import stand_ins, thumbnails
from rapiddraw.core import paths
from rapiddraw.core.graph.shipped import NEED_MODELS, shipped_graphs
from rapiddraw.core.graph.validate import validate
from rapiddraw.nodes.registry import registry
from rapiddraw.tests.test_workflows import orchard  # noqa: F401 (fixture)


def read(name):
    return json.loads(shipped_graphs()[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(NEED_MODELS))
def test_a_graph_with_stand_ins_can_run_here_and_keeps_its_work(name, orchard, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(paths, "weights_dirs", lambda: [orchard])
    Image.new("RGB", (8, 8)).save(tmp_path / "example.png")
    made = stand_ins.with_stand_ins(name, read(name))
    with paths.using_dirs(input=tmp_path):
        assert validate(made, registry()) == []
    loaders = {stand_ins.CHECKPOINT, *stand_ins.SINGLE, *stand_ins.OTHER}
    kinds = {number: node["class_type"] for number, node in made.items()}
    assert not loaders & set(kinds.values())
    for number, node in read(name).items():
        if node["class_type"].startswith("RapidDraw"):
            assert kinds[number] == node["class_type"]


def test_a_graph_without_needs_stays_as_it_is():
    assert stand_ins.with_stand_ins("text_to_image", read("text_to_image")) == read("text_to_image")


def test_a_bundle_in_the_place_of_a_distilled_model_draws_with_guidance():
    name, (sampler, guidance) = "07 A ControlNet of another model family", ("20:17", "cfg_a")
    assert read(name)[sampler]["inputs"][guidance] == 1
    assert stand_ins.with_stand_ins(name, read(name))[sampler]["inputs"][guidance] == 4


def test_a_shipped_graph_becomes_one_picture(orchard, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(paths, "weights_dirs", lambda: [orchard])
    monkeypatch.setattr(stand_ins, "SMALL_SIDE", 32)
    path = thumbnails.draw("11 Style dial", tmp_path)
    assert path == tmp_path / "11 Style dial.jpg"
    with Image.open(path) as picture:
        assert picture.format == "JPEG" and picture.width > 2.5 * picture.height and picture.width <= thumbnails.LONGEST


@pytest.mark.parametrize(("count", "size"), [(1, (40, 20)), (2, (40, 40)), (4, (80, 40)), (3, (80, 40))])
def test_several_pictures_stand_side_by_side(count, size):
    assert thumbnails._side_by_side([Image.new("RGB", (40, 20))] * count).size == size
