"""The floors of the house: each room imports only from the floors below it, function-local imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from rapiddraw.core.paths import pack_root

ROOT = pack_root()
FLOORS = (
    ("core.errors", "core.language"),
    ("core.checks", "core.device", "core.files", "core.paths", "core.progress"),
    ("core.bundles",),
    ("core.image", "core.diffusion", "core.attention", "core.knowledge", "core.checkpoint", "core.speed"),
    ("core.upscale", "core.lowrank"),
    ("core.slim", "core.fewstep"),
    ("core.networks", "core.orchard"),
    ("core.text", "core.control"),
    ("core.scoring",),
    ("core.data",),
    ("core.host",),
    ("core.host.comfy", "core.host.embedded"),
    ("core.bridge",),
    ("core.graph",),
    ("core.graph.stock",),
    ("core.metrics",),
    ("core.train",),
    ("core.train.inputs",),
    ("core.train.recipes",),
    ("core.train.chain",),
    ("core.operations",),
    ("nodes",),
    ("api",),
    ("serve",),
    ("benchmarks",),
    ("cli",),
)
"""From the ground up. A room is a package or a loose module; the longest name that matches counts."""
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = sorted(path for part in ("core", "nodes", "api", "serve", "cli", "benchmarks") for path in (ROOT / part).rglob("*.py"))


def room_of(module: str) -> str:
    """The room that a module (`core.train.recipes.unet`) lies in."""
    parts = module.split(".")
    return next((room for n in range(len(parts), 0, -1) if (room := ".".join(parts[:n])) in LEVEL), "")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every relative import in a file, wherever it stands."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        base = [part for part in base if part]
        for alias in node.names:
            folder = ROOT.joinpath(*base, alias.name)
            yield node.lineno, ".".join([*base, alias.name] if folder.is_dir() or folder.with_suffix(".py").is_file() else base)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_come_from_the_floors_below(path: Path) -> None:
    module = module_of(path)
    if module == "core":
        return
    own = room_of(module)
    assert own, f"{path} lies in no room of the list: add its room to FLOORS"
    for line, target in imports_of(path):
        other = room_of(target)
        assert other, f"{path}:{line}: {target} lies in no room of the list"
        assert other == own or LEVEL[other] < LEVEL[own], f"{path}:{line}: {own} imports {target}, which is not on a floor below it"


def test_no_circle_of_modules() -> None:
    """Not even one that closes inside a function or for a type checker."""
    graph = {module_of(path): {target for _, target in imports_of(path)} for path in SOURCES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, "a circle: " + " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def defined_in(path: Path) -> set[str]:
    """The names that a module has at its top level, in branches included."""
    names: set[str] = set()
    todo: list[ast.AST] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        names.update(child.id for child in ast.walk(node) if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store))
        if isinstance(node, ast.If | ast.Try | ast.With):
            todo.extend(ast.iter_child_nodes(node))
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_names_what_is_there(path: Path) -> None:
    """The type checker passes over an import that it cannot find."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        target = ROOT.joinpath(*package[: len(package) - node.level + 1], *filter(None, (node.module or "").split(".")))
        file = target / "__init__.py" if target.is_dir() else target.with_suffix(".py")
        assert file.is_file(), f"{path}:{node.lineno}: there is no module {node.module}"
        known = defined_in(file)
        for alias in node.names:
            beside = target / alias.name
            there = alias.name in known or beside.is_dir() or beside.with_suffix(".py").is_file()
            assert there or "__getattr__" in known, f"{path}:{node.lineno}: {node.module or '.'} has no {alias.name}"
