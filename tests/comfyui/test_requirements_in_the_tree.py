"""What the pack relies on, looked for in ComfyUI's files without running them."""

from __future__ import annotations

import pytest
from rapiddraw.core.host.comfy.requirements import OPTIONAL, REQUIRED, TESTED
from rapiddraw.tests.comfyui.conftest import COMFYUI
from rapiddraw.tests.comfyui.tree import Tree


@pytest.fixture(scope="module")
def tree() -> Tree:
    assert COMFYUI is not None
    return Tree(COMFYUI)


def test_the_tree_has_all_that_is_required(tree: Tree) -> None:
    assert tree.missing(REQUIRED) == []


def test_the_tree_has_what_its_version_was_seen_to_have(tree: Tree) -> None:
    if tree.version() not in TESTED:
        pytest.skip(f"{tree.version()} is not one of the tested versions")
    assert set(OPTIONAL) - set(tree.missing(tuple(OPTIONAL))) == {name for name, seen in OPTIONAL.items() if tree.version() in seen}


@pytest.mark.parametrize(
    "name",
    [
        "comfy.samplers:CFGGuider.gone", "comfy.samplers:gone", "comfy.gone:CFGGuider", "comfy.cli_args:args.gone_too",
        "comfy.model_base:ModelType.GONE", "folder_paths:models_dirs",
    ],
)  # fmt: skip
def test_what_is_not_there_is_missed(tree: Tree, name: str) -> None:
    assert tree.missing([name]) == [name]
