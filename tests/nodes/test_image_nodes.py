from __future__ import annotations

import pytest
import torch
from PIL import Image
from rapiddraw.core.errors import InputError
from rapiddraw.core.graph.execute import execute
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.image.png import is_marked
from rapiddraw.core.paths import output_dir
from rapiddraw.nodes.image import MarkAIGenerated, SaveMarkedImage


class Grey:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "execute"

    def execute(self):
        return (torch.full((2, 64, 64, 3), 0.5),)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("rapiddraw.core.paths._dirs", {"output": tmp_path / "out"})
    return tmp_path / "out"


def test_marked_pictures_are_saved_with_their_graph(folder):
    registry = {"Grey": Grey, "RapidDrawMarkAIGenerated": MarkAIGenerated, "RapidDrawSaveMarkedImage": SaveMarkedImage}
    api = {
        "1": {"class_type": "Grey", "inputs": {}},
        "2": {
            "class_type": "RapidDrawMarkAIGenerated",
            "inputs": {"image": ["1", 0], "text": "AI-generated", "position": "top_left", "opacity": 0.8},
        },
        "3": {"class_type": "RapidDrawSaveMarkedImage", "inputs": {"images": ["2", 0], "filename_prefix": "sub/x"}},
    }
    images = execute(api, registry).outputs["3"]["images"]
    assert images == [{"filename": f"x_0000{number}_.png", "subfolder": "sub", "type": "output"} for number in (1, 2)]
    for image in images:
        path = output_dir() / image["subfolder"] / image["filename"]
        assert is_marked(path) and read_graph(path).api == api
    assert execute(api, registry).outputs["3"]["images"][0]["filename"] == "x_00003_.png", "nothing is overwritten"


def test_a_host_that_saves_no_graphs_still_marks_the_file(folder, monkeypatch):
    monkeypatch.setattr("rapiddraw.core.host.embedded.process.saves_graphs", lambda: False)
    node, words = SaveMarkedImage(), {"prompt": {"1": {}}, "extra_pnginfo": {"workflow": {}}}
    node.execute(torch.zeros(1, 8, 8, 3), "x", **words)
    with Image.open(folder / "x_00001_.png") as image:
        assert is_marked(folder / "x_00001_.png") and not {"prompt", "workflow"} & image.info.keys()


def test_a_prefix_cannot_leave_the_output_folder(folder):
    with pytest.raises(InputError):
        SaveMarkedImage().execute(torch.zeros(1, 8, 8, 3), "../escape")
