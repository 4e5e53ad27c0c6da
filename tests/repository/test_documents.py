"""The documents name files, commands and functions that exist, and their examples fit the code."""

from __future__ import annotations

import ast
import importlib
import json
import re
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
from rapiddraw.benchmarks.common import names as benchmark_names
from rapiddraw.cli import COMMANDS
from rapiddraw.cli.train import ON_A_MODEL
from rapiddraw.core.paths import pack_root
from rapiddraw.core.train import RECIPES

ROOT = pack_root()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "weights" / "README.md"])
CODE = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
FOLDERS = "core|nodes|api|serve|cli|benchmarks|tests|docs|web|weights|workflows|locales|\\.github|\\.ci"
EXAMPLES = ("line", "coin")
"""The recipe and the benchmark that CONTRIBUTING.md makes up."""
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def examples(text: str) -> list[tuple[str, str]]:
    """(file, code) of every Python block of a document; its first line is a comment that names the file."""
    blocks = [textwrap.dedent(code) for _, code in CODE.findall(text)]
    return [(block.splitlines()[0].removeprefix("# "), block) for block in blocks]


MADE_UP = {f"rapiddraw.{name.removesuffix('.py').replace('/', '.')}" for path in DOCUMENTS for name, _ in examples(path.read_text("utf-8"))}
"""The modules that examples make up."""


@each_document
def test_a_file_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    made_up = {name for name, _ in examples(text)}
    for named in re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*(?![\w./$-])", CODE.sub("", text)):
        name = named.rstrip(".")
        if name not in made_up and not re.search(r"NAME|FILE|\bID\b|/my-|/first-", name):
            assert (ROOT / name).exists() or list(ROOT.glob(f"{name}.*")), f"{path.name} names {name}, which does not exist"


@each_document
def test_a_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), f"{path.name} links to {target}, which does not exist"


@each_document
def test_a_command_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (.+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[0].split()
    for target in re.findall(r"(?:^    |`|&& |\.\.\. |ComfyUI )make ([\w-]+)", text, re.MULTILINE):
        assert target in targets, f"{path.name}: make {target}"
    for command, argument in re.findall(r"-m rapiddraw(?: -v)? (\w+) ?([\w-]*)", text):
        assert command in COMMANDS, f"{path.name}: python -m rapiddraw {command}"
        if command == "train":
            assert argument in (*RECIPES, "orchard", *ON_A_MODEL, *EXAMPLES), f"{path.name}: train {argument}"
    for name in re.findall(r"`(?:[A-Z_]+=\S+ )?(?:python -m rapiddraw )?bench ([a-z][\w-]*)", text):
        known = name.replace("-", "_") in benchmark_names() or name in ("all", "list", "report") or name in EXAMPLES
        assert known, f"{path.name}: bench {name}"


@pytest.mark.parametrize(
    ("name", "code"), [pytest.param(*one, id=one[0]) for path in DOCUMENTS for one in examples(path.read_text(encoding="utf-8"))]
)
def test_an_example_fits_the_code(name: str, code: str) -> None:
    """What it imports from the project exists."""
    package, modules = ["rapiddraw", *Path(name).parent.parts], {}
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            module = None if target in MADE_UP else importlib.import_module(target)
            for alias in node.names if module else ():
                inner = f"{target}.{alias.name}" if hasattr(module, "__path__") and find_spec(f"{target}.{alias.name}") else None
                assert inner or hasattr(module, alias.name), f"the example {name} imports {alias.name}, which {target} does not have"
                modules |= {alias.name: importlib.import_module(inner)} if inner else {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"the example {name} uses {node.value.id}.{node.attr}, which does not exist"


def test_json_examples_are_json() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2 and all(json.loads(textwrap.dedent(block)) for block in blocks)


def test_every_page_stands_in_the_navigation_of_the_site() -> None:
    """And what the navigation names exists; pages outside docs/ are named by their path in the repository."""
    named = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2], re.MULTILINE)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert not pages - set(named), "add it to nav in mkdocs.yml"
    assert not [one for one in named if not (ROOT / "docs" / one).is_file() and not (ROOT / one).is_file()]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "methods").glob("*-*.md")), ids=lambda path: path.stem)
def test_a_template_that_a_method_names_exists(path: Path) -> None:
    for line in re.findall(r"\*\*Templates?\.\*\* (.+)", path.read_text(encoding="utf-8")):
        for name in re.findall(r"\*(\d\d [^*]+)\*", line):
            assert (ROOT / "workflows" / f"{name}.json").is_file(), f"{path.name}: the template {name} is gone"
        for name in re.findall(r"`(\w+)`", line):
            assert (ROOT / "workflows" / "api" / f"{name}.json").is_file(), f"{path.name}: the graph {name} is gone"


def test_nodes_md_names_every_node() -> None:
    from rapiddraw import NODE_CLASS_MAPPINGS

    text = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8")
    names = {re.sub(r" \(.*", "", node.DISPLAY_NAME) for node in NODE_CLASS_MAPPINGS.values()}
    short = re.sub(r"Time-Decoupled KSampler, Guider, Model", "Time-Decoupled Guider, Time-Decoupled Model, Time-Decoupled KSampler", text)
    short = short.replace("Latent Space Bridge Sampler, Guider", "Latent Space Bridge Sampler, Latent Space Bridge Guider")
    short = short.replace("Save and Load Low-Rank UNet", "Save Low-Rank UNet, Load Low-Rank UNet")
    assert not {name for name in names if name not in short}, "docs/nodes.md leaves nodes out"
