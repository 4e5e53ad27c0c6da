"""Every command, given files and places of any kind: one line of ours and an exit code, never a traceback."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rapiddraw.cli import main

DATA = Path(__file__).parents[1] / "data"
NOWHERE = "/proc/none"
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a/b"}},
}


@pytest.fixture
def graph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rapiddraw.core.paths._dirs", {})
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    return tmp_path


def refused(capsys, arguments, codes=(1, 2), lines=1):
    """The one line of a command that fails."""
    code = main(arguments)
    shown = capsys.readouterr()
    told = [line for line in shown.err.splitlines() if not line.startswith(("INFO", "WARNING", "  node"))]
    assert code in codes and "Traceback" not in shown.err and "unexpected" not in shown.err, shown.err
    assert 1 <= len(told) <= lines, shown.err
    return told[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "graph.json", "--to", "ui", "--out", f"{NOWHERE}/x.json"],
        ["convert", "graph.json", "--to", "ui", "--out", "file/x.json"],
        ["convert", "graph.json", "--to", "ui", "--out", "folder"],
        ["run", "graph.json", "--output", f"{NOWHERE}/x"],
        ["run", "graph.json", "--output", "file"],
        ["profile", "graph.json", "--chart", f"{NOWHERE}/x.png"],
        ["profile", "graph.json", "--chart", "folder"],
        ["train", "kg", "--steps", "1", "--out", f"{NOWHERE}/x.safetensors", "--run", "runs"],
        ["train", "kg", "--steps", "1", "--out", "x.safetensors", "--run", f"{NOWHERE}/runs"],
        ["data", "orchard", "--count", "1", "--size", "64", "--split", "validation", "--out", f"{NOWHERE}/x"],
        ["data", "orchard", "--count", "1", "--size", "64", "--split", "validation", "--out", "file"],
        ["data", "filter", "pictures", "--out", "file/x"],
        ["data", "recaption", "pictures", "--out", "file/x"],
        ["train", "orchard", "--budget", "1s", "--out", "file/x"],
        ["bench", "retrieval", "--results", "file/x"],
    ],
)
def test_what_cannot_be_written_is_one_line_and_exit_code_1(graph, capsys, arguments):
    before = sorted(path for path in graph.rglob("*") if path.is_file())
    assert "cannot write" in refused(capsys, arguments, codes=(1,))
    assert sorted(path for path in graph.rglob("*") if path.is_file() and "runs" not in path.parts) == before, "nothing is half written"


def test_a_failed_run_says_so_in_json_as_well(graph, capsys):
    assert main(["run", "graph.json", "--output", "file", "--json"]) == 1
    assert "cannot write" in json.loads(capsys.readouterr().out)["reasons"][0]


@pytest.mark.parametrize("command", [["run", "graph.json"], ["convert", "graph.json", "--to", "ui", "--out", "out/big.json"]])
def test_a_full_disk_leaves_nothing_half_written(graph, command):
    """The size of a file is limited to less than the result needs, which fails in the middle of writing as a full disk does."""
    (graph / "graph.json").write_text(json.dumps({**GRAPH, "1": {**GRAPH["1"], "_meta": {"title": os.urandom(20_000).hex()}}}))
    done = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-m", "rapiddraw", *command], cwd=graph, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    told = [line for line in done.stderr.splitlines() if "cannot write" in line]
    assert len(told) == 1 and "File too large" in told[0] and "Traceback" not in done.stderr
    assert not [path for path in graph.rglob("*") if path.is_file() and path.name not in ("graph.json", "file")]


READERS = [
    ["run", "{}"], ["validate", "{}"], ["inspect", "{}"], ["convert", "{}", "--to", "api", "--out", "out.json"], ["profile", "{}"],
    ["data", "check", "{}"], ["data", "filter", "{}"], ["data", "recaption", "{}", "--out", "new"],
    ["data", "filter", "folder", "--judge", "{}"], ["data", "filter", "folder", "--scorer", "{}"],
    ["data", "filter", "folder", "--graph", "{}"],
    ["train", "unet", "--data", "{}", "--steps", "1", "--out", "x.safetensors"],
    ["train", "distill", "--steps", "1", "--out", "x.safetensors", "--set", "teacher={}", "--set", "vae={}", "--set", "text={}"],
]  # fmt: skip
NAMES = [
    "none",
    "folder",
    "file",
    "a\ud800.json",
    "\udcff.png",
    "x" * 300,
    "/proc/self/mem",
    "/dev/null",
    "",
    ".",
    "..",
    "file/deep",
    "~",
    "a\nb",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("command", READERS, ids=lambda command: " ".join(command))
def test_a_name_of_any_kind_is_refused_in_one_line(graph, capsys, command, name):
    arguments = [part.replace("{}", name) for part in command]
    code = main(arguments)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err and "unexpected" not in shown.err, shown.err
    assert code in (0, 1, 2) and (code == 0 or shown.err or shown.out)
    shown.out.encode("utf-8"), shown.err.encode("utf-8")


@pytest.mark.parametrize("path", sorted((DATA / "pictures").iterdir()) + sorted((DATA / "graphs").iterdir()), ids=lambda path: path.name)
@pytest.mark.parametrize("command", READERS[:5], ids=lambda command: command[0])
def test_reported_files_are_used_or_refused(graph, capsys, command, path):
    code = main([part.replace("{}", str(path)) for part in command])
    shown = capsys.readouterr()
    assert code in (0, 1, 2) and "Traceback" not in shown.err and "unexpected" not in shown.err, shown.err


WORDS = st.sampled_from(
    ["1", "-1", "0", "9" * 30, "nan", "inf", "1e999", "", " ", "\ud800", "a=b", "1.width=8", "--json", "--set", "x", "-v", "\U0001f350"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    command=st.sampled_from(
        [
            ["run", "graph.json", "--set"], ["run", "graph.json", "--seed"], ["profile", "graph.json", "--runs"],
            ["profile", "graph.json", "--steps"], ["nodes"], ["nodes", "--json"], ["bench"], ["bench", "list"], ["train", "kg", "--set"],
            ["train", "kg", "--settings", "--seed"], ["train"], ["data"], ["data", "orchard", "--out", "folder/x", "--count"],
            ["data", "orchard", "--out", "folder/x", "--size"], ["data", "orchard", "--out", "folder/x", "--split"],
            ["data", "orchard", "--out", "folder/x", "--maps"], ["inspect", "--json"], ["validate", "--json"], [],
        ]
    ),
    words=st.lists(WORDS, max_size=3),
)  # fmt: skip
def test_any_words_are_used_or_refused(graph, capsys, command, words):
    if command[:2] == ["data", "orchard"] and command[-1] == "--count" and words[:1] == ["9" * 30]:
        return  # a legal wish that would take for ever
    code = main([*command, *words])
    shown = capsys.readouterr()
    assert code in (0, 1, 2), code
    assert "Traceback" not in shown.err and "unexpected" not in shown.err, shown.err


@pytest.mark.parametrize(
    ("arguments", "work"),
    [
        (["run", "graph.json", "--output", "file"], "core.graph.execute.Runner.run"),
        (["convert", "graph.json", "--to", "ui", "--out", "folder"], "core.graph.formats.read_graph"),
        (["profile", "graph.json", "--chart", "folder"], "core.graph.formats.read_graph"),
        (["train", "kg", "--steps", "1", "--out", "file/x.safetensors"], "core.train.recipes.kg.KgRecipe.setup"),
        (["train", "orchard", "--budget", "1s", "--out", "file/x"], "core.train.chain.run.draw"),
        (["data", "orchard", "--count", "1", "--out", "file"], "core.orchard.dataset.draw_pictures"),
        (["data", "filter", "pictures", "--out", "file/x"], "core.data.filters.ImageFolder"),
        (["data", "recaption", "pictures", "--out", "file/x"], "core.data.recaption.ImageFolder"),
        (["bench", "retrieval", "--results", "file/x"], "benchmarks.retrieval.run"),
        (["bench", "all"], "benchmarks.retrieval.run"),
        (["serve", "graph.json", "--data", "file/x"], "serve.run.serve"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_output_is_tried_before_the_work(graph, capsys, monkeypatch, arguments, work):
    def worked(*args, **options):
        raise AssertionError(f"{work} was called before the output was tried")

    monkeypatch.setattr(f"rapiddraw.{work}", worked)
    monkeypatch.setattr("rapiddraw.benchmarks.common.pack_root", lambda: graph / "file")
    assert "cannot write" in refused(capsys, arguments, codes=(1,))
