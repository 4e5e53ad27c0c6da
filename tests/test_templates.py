"""The templates for a start, first in the template browser: few boxes, a note, models by name, words to find them by."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from rapiddraw.core import paths
from rapiddraw.core.graph.convert import NOTES

FOLDER = paths.pack_root() / "workflows"
FIRST = sorted(path.stem for path in FOLDER.glob("[0-9]*.json"))
LOADERS = {"CheckpointLoaderSimple", "UNETLoader"}
FOLDERS = {
    "CheckpointLoaderSimple": "checkpoints", "UNETLoader": "diffusion_models", "CLIPLoader": "text_encoders", "VAELoader": "vae",
    "ControlNetLoader": "controlnet", "UpscaleModelLoader": "upscale_models",
}  # fmt: skip
MOST_BOXES = 10
HEADINGS = ["What you get", "Try this", "Needs", "\u5f97\u5230\u4ec0\u4e48", "\u8bd5\u8bd5", "\u9700\u8981"]


def ui(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def everything(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """Every node, those inside subgraphs too."""
    return graph["nodes"] + [node for inside in graph.get("definitions", {}).get("subgraphs", ()) for node in inside["nodes"]]


def test_their_names_sort_and_all_others_are_marked_as_advanced():
    numbers = [name.split(" ")[0] for name in FIRST]
    assert len(FIRST) >= 10 and all(re.fullmatch("[0-9][0-9]", number) for number in numbers) and len(set(numbers)) == len(numbers)
    others = {path.stem for path in FOLDER.glob("*.json")} - set(FIRST)
    assert [name for name in others if not name.startswith("advanced_") and not name.endswith(".app")] == []


def test_eight_start_from_a_users_own_model():
    starting = [name for name in FIRST if LOADERS & {node["type"] for node in ui(name)["nodes"]}]
    assert len(starting) >= 8


@pytest.mark.parametrize("name", FIRST)
def test_there_are_few_boxes_in_the_four_groups(name):
    graph = ui(name)
    assert len(graph["nodes"]) <= MOST_BOXES
    titles = [group["title"] for group in graph["groups"]]
    assert titles == sorted(titles) and {"1 Model", "4 Result"} <= set(titles) <= {"1 Model", "2 Prompt", "3 Draw", "4 Result"}


@pytest.mark.parametrize("name", FIRST)
def test_a_note_says_in_both_languages_what_one_gets_what_to_try_and_what_it_needs(name):
    (note,) = [node for node in ui(name)["nodes"] if node["type"] in NOTES]
    assert note["type"] == "MarkdownNote"
    (text,) = note["widgets_values"]
    assert re.findall("^# (.+)$", text, re.MULTILINE) == HEADINGS
    assert all(part.strip() for part in re.split("^# .+$", text, flags=re.MULTILINE)[1:])


@pytest.mark.parametrize("name", FIRST)
def test_a_loader_says_where_its_model_is_to_be_had(name):
    """By `models` in a node's properties the editor offers to fetch what is missing."""
    for node in everything(ui(name)):
        if node["type"] in FOLDERS:
            (model,) = node["properties"]["models"]
            assert model["name"] == node["widgets_values"][0] and model["directory"] == FOLDERS[node["type"]]
            assert re.fullmatch(r"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/[\w./-]+(\?download=true)?", model["url"])
            assert model["url"].split("?")[0].endswith(f"/{model['name']}")


@pytest.mark.parametrize("name", FIRST)
def test_a_template_is_described_and_has_words_to_be_found_by(name):
    about = ui(name)["extra"]["rapiddraw"]
    assert set(about["description"]) == {"en", "zh"} and all(about["description"].values())
    assert len(about["search"]) >= 4 and len(set(about["search"])) == len(about["search"])
    assert all(word == word.lower().strip() for word in about["search"])
    assert (FOLDER / f"{name}.jpg").is_file(), "python -m rapiddraw bench thumbnails"


def test_no_two_show_the_same_prompt_and_seed():
    """So that no two thumbnails look alike."""
    seen: dict[str, str] = {}
    for name in FIRST:
        api = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
        texts = {str(node["inputs"][key]) for node in api.values() for key in ("text", "keywords") if node["inputs"].get(key)}
        for text in texts - {"AI-generated"}:
            assert seen.setdefault(text, name) == name, text
