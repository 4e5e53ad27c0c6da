"""The broken graphs in tests/data/broken: each has one fault, named by the file, and gets one readable line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rapiddraw.cli import main

BROKEN = sorted((Path(__file__).parents[1] / "data" / "broken").glob("*.json"))
KINDS = {path: re.sub("_muted$", "", path.stem) for path in BROKEN}


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_graph_gets_one_line_of_the_right_type(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["validate", str(path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and len(lines[0]) < 500
    assert lines[0].startswith(f"{path}: {KINDS[path]}: ")
    if KINDS[path] not in ("prompt_no_outputs", "invalid_prompt"):
        assert re.search(r": node \d+ \w+", lines[0])


def test_there_are_ten_kinds_and_more():
    assert len(set(KINDS.values())) >= 10


def test_the_lines_name_what_was_given_and_what_is_allowed(capsys):
    main(["validate", *map(str, BROKEN)])
    text = capsys.readouterr().out
    for part in (
        'did you mean "euler"?',
        "input 'batch_size' is 100000, bigger than the largest allowed value 4096",
        "input 'width' is 0, smaller than the least allowed value 16",
        "did you mean EmptyLatentImage?",
        'takes IMAGE, but output 0 of node 1 EmptyLatentImage "Size" gives LATENT',
        "linked to node 11, which is not in the graph",
        '"tall", which is no INT',
        "no-such-picture.png",
        "1 ImageScale -> 2 ImageBatch",
        "not valid JSON",
    ):
        assert part in text, part


def test_json_tells_the_same(capsys):
    paths = [str(path) for path in BROKEN]
    assert main(["validate", "--json", *paths]) == 2
    data = json.loads(capsys.readouterr().out)
    assert [len(data[path]) for path in paths] == [1] * len(paths)
    assert {problem["type"] for problems in data.values() for problem in problems} == set(KINDS.values())


def test_a_good_graph_is_ok(tmp_path, capsys):
    graph = {
        "1": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    (tmp_path / "good.json").write_text(json.dumps(graph))
    assert main(["validate", str(tmp_path / "good.json")]) == 0
    assert capsys.readouterr().out.endswith("good.json: ok\n")


def test_an_unknown_node_that_nothing_needs_is_a_warning(tmp_path, capsys):
    graph = {
        "1": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        "3": {"class_type": "A Clock \ud83d", "inputs": {}},
    }
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    assert main(["validate", str(tmp_path / "graph.json")]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("graph.json: ok\n")
    assert len(shown.err.splitlines()) == 1 and "warning: node 3" in shown.err
