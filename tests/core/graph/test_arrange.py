"""core.graph.arrange: places that fit a screen, groups that hold their nodes, and nothing else changed."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import pytest
from rapiddraw.core import paths
from rapiddraw.core.graph.arrange import CANVAS, GROUPS, arrange
from rapiddraw.nodes.registry import registry
from rapiddraw.tests.foreign import LOADERS

SHIPPED = sorted((paths.pack_root() / "workflows").glob("*.json"))


def node(number: int, kind: str, gives: list[str], size: tuple[int, int] = (320, 100)) -> dict[str, Any]:
    outputs = [{"name": one, "type": one, "links": []} for one in gives]
    return {"id": number, "type": kind, "pos": [0, 0], "size": list(size), "order": 0, "inputs": [], "outputs": outputs}


def graph(nodes: list[dict[str, Any]], *links: tuple[int, int]) -> dict[str, Any]:
    return {"nodes": nodes, "links": [[n, a, 0, b, 0, "*"] for n, (a, b) in enumerate(links, 1)], "groups": [], "version": 0.4}


def boxes(made: dict[str, Any]) -> dict[Any, tuple[float, float, float, float]]:
    return {one["id"]: (one["pos"][0], one["pos"][1] - 34, one["size"][0], one["size"][1] + 34) for one in made["nodes"]}


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_graph_fits_a_screen_and_nothing_overlaps(path):
    made = json.loads(path.read_text(encoding="utf-8"))
    assert made == arrange(made, {**registry(), **LOADERS}), "run: python -m rapiddraw convert GRAPH --to ui --arrange --out GRAPH"
    found = boxes(made)
    assert not [pair for pair in itertools.combinations(found, 2) if overlap(found[pair[0]], found[pair[1]])]
    width = max(x + w for x, _, w, _ in found.values()) - min(x for x, *_ in found.values())
    height = max(y + h for _, y, _, h in found.values()) - min(y for _, y, *_ in found.values())
    assert min(CANVAS[0] / width, CANVAS[1] / height) > 0.5, "texts are too small to read when the whole graph is shown"
    for group in made["groups"]:
        x, y, w, h = group["bounding"]
        inside = [one for one in found.values() if overlap(one, (x, y, w, h))]
        assert inside and all(x <= a and y <= b and a + c <= x + w and b + d <= y + h for a, b, c, d in inside)


def test_a_node_stands_in_the_group_of_what_it_gives_or_later():
    made = arrange(
        graph(
            [node(1, "Load", ["MODEL", "CLIP", "VAE"]), node(2, "Encode", ["CONDITIONING"]), node(3, "Sample", ["LATENT"]),
             node(4, "Decode", ["IMAGE"]), node(5, "Patch", ["MODEL"]), node(6, "Save", []), node(7, "MarkdownNote", [])],
            (1, 2), (2, 3), (3, 4), (2, 5), (4, 6),
        ),
        {},
    )  # fmt: skip
    found = boxes(made)
    titles = {
        number: next(g["title"] for g in made["groups"] if overlap(box, tuple(g["bounding"])))
        for number, box in found.items()
        if number < 7
    }
    expected = [GROUPS[place][0] for place in (0, 1, 2, 3, 1, 3)]  # the patch reads a prompt
    assert [titles[number] for number in range(1, 7)] == expected
    assert found[7][0] + found[7][2] < made["groups"][0]["bounding"][0]


@pytest.mark.parametrize(
    ("plain", "advanced", "needed"),
    [(4, 0, 26 + 4 * 36), (4, 2, 26 + 4 * 36 + 24), (4, 16, 26 + 20 * 24), (0, 3, 26 + 3 * 24)],
    ids=["all shown", "Nodes 2.0 needs more", "the classic canvas needs more", "all folded"],
)
def test_a_node_has_the_room_that_either_look_of_the_editor_needs(plain, advanced, needed):
    """Nodes 2.0 folds advanced widgets behind a button; the classic canvas keeps 24 px for each."""
    shown = {f"a{n}": ("INT", {}) for n in range(plain)}
    folded = {f"b{n}": ("INT", {"advanced": True}) for n in range(advanced)}
    kind = type("Wide", (), {"INPUT_TYPES": classmethod(lambda cls: {"required": shown, "optional": folded})})
    made = arrange(graph([node(1, "Wide", [], size=(320, 10))]), {"Wide": kind})
    assert made["nodes"][0]["size"] == [320, needed]


def test_only_places_sizes_and_groups_change():
    before = graph([node(1, "A", ["MODEL"]), node(2, "B", ["LATENT"])], (1, 2), (2, 1))  # a circle, as a damaged file may hold
    kept = copy.deepcopy(before)
    after = arrange(before, {})
    assert before == kept
    for old, new in zip(before["nodes"], after["nodes"], strict=True):
        assert {**old, "pos": 0, "size": 0, "order": 0} == {**new, "pos": 0, "size": 0, "order": 0}
    assert after["links"] == before["links"] and arrange(after, {}) == after
    assert arrange(graph([]), {})["groups"] == []
