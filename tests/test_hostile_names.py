"""Hostile texts in every text and list of every node, in the saved graph that shows the node: errors of ours, one line each."""

from __future__ import annotations

import copy
import json
import os
import struct
import time

import pytest
from rapiddraw import NODE_CLASS_MAPPINGS
from rapiddraw.cli import main
from rapiddraw.core.errors import InvalidGraphError, NodeError, RapidDrawError
from rapiddraw.core.graph.execute import Runner
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.graph.inputs import input_specs
from rapiddraw.core.graph.validate import reachable

from .test_workflows import FEWER, FOLDER, NAMES, nodes, orchard  # noqa: F401 (fixtures)

WORDS = ["\ud83d", "a/\udfff.png", "\x00", "../x"]
TEXTS = {
    node_id: [spec.name for spec in input_specs(node_class).values() if spec.is_widget and spec.type in ("STRING", "COMBO")]
    for node_id, node_class in NODE_CLASS_MAPPINGS.items()
}


@pytest.fixture(scope="module")
def runner():
    """Keeps what the nodes before the one in question gave, from one word to the next."""
    return Runner({})


def smallest_graph(kind):
    """(graph, node id): of the saved graphs with such a node, the one in which it needs the fewest others, made small."""
    found = []
    for name in NAMES:
        api = read_graph(FOLDER / "api" / f"{name}.json").api
        found += [(len(reachable(api, [node_id])), name, node_id) for node_id, node in api.items() if node["class_type"] == kind]
    _, name, node_id = min(found)
    api = copy.deepcopy(read_graph(FOLDER / "api" / f"{name}.json").api)
    for node in api.values():
        node["inputs"] |= FEWER.get(node["class_type"], {})
    return api, node_id


@pytest.mark.parametrize("kind", [kind for kind, names in TEXTS.items() if names])
def test_a_hostile_word_in_every_text_of_a_node(kind, nodes, runner, tmp_path):  # noqa: F811
    runner.registry = nodes
    graph, node_id = smallest_graph(kind)
    for word in WORDS:
        api = copy.deepcopy(graph)
        api[node_id]["inputs"] |= {name: word for name in TEXTS[kind] if not isinstance(api[node_id]["inputs"].get(name), list)}
        try:
            runner.run(api, outputs=[node_id])
        except InvalidGraphError as error:
            assert all("\n" not in str(problem) for problem in error.problems)
        except NodeError as error:
            assert isinstance(error.__cause__, RapidDrawError), f"{kind} with {word!a}: {error!a}"
            assert "\n" not in str(error), f"{kind} with {word!a}: {error!a}"
    assert not (tmp_path.parent / "x").exists() and not (tmp_path / "x").exists()


def test_any_files_in_a_models_folder_leave_the_list_of_nodes_whole_and_quick(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "models"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "llm" / "deep").mkdir(parents=True)
    monkeypatch.setenv("RAPIDDRAW_WEIGHTS", str(folder))
    monkeypatch.setattr("rapiddraw.core.paths._dirs", {"input": folder, "output": tmp_path / "out", "temp": tmp_path / "temp"})
    giant = (
        b'{"__metadata__": {"rapiddraw": "{}"}, "t": {"dtype": "F32", "shape": ['
        + b",".join([b"9" * 4000] * 220)
        + b'], "data_offsets": [0, 8]}}'
    )
    headers = [
        giant,
        b"[" * 900_000,
        b'{"rapiddraw":' + b"[1," * 300_000,
        b"\xff" * 1000,
        b"{}",
        b'{"__metadata__": {"rapiddraw": "[[[["}}',
    ]
    for where in (folder, folder / "checkpoints", folder / "llm" / "deep"):
        for number, header in enumerate(headers):
            (where / f"bad{number}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
        for ending in ("pth", "tsv", "jsonl", "json", "png", "ckpt"):
            (where / f"bad.{ending}").write_bytes(os.urandom(1000))
        (where / os.fsdecode(b"caf\xe9.safetensors")).write_bytes(b"")
        (where / "config.json").write_text("[" * 100_000)
        os.mkfifo(where / "pipe.safetensors")
        os.symlink(folder, where / "round")
    started = time.process_time()
    assert main(["nodes", "--json"]) == 0
    first = time.process_time() - started
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) >= set(NODE_CLASS_MAPPINGS)
    assert first < 2, f"{first:.1f} s"
    assert "bad0.safetensors" not in json.dumps(listed["RapidDrawBundleLoader"])
