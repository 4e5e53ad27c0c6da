"""What is relied on of ComfyUI stands in one list; the real ComfyUI is asked for it by tests/comfyui/test_inside.py."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rapiddraw.core.errors import MissingPackageError
from rapiddraw.core.host.comfy.requirements import REQUIRED, check_requirements, missing
from rapiddraw.core.paths import pack_root

PACKAGES = {"comfy", "comfy_extras", "folder_paths", "latent_preview", "nodes"}
FILES = sorted((pack_root() / "core" / "host" / "comfy").glob("*.py"))


def reached(path: Path) -> Iterator[str]:
    """Every dotted name that a file's code reaches in ComfyUI, spelled from its package on."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known: dict[str, str] = {}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            for name in statement.names:
                top = name.name.partition(".")[0]
                known |= {name.asname or top: name.name if name.asname else top} if top in PACKAGES else {}
        elif isinstance(statement, ast.ImportFrom) and not statement.level and (statement.module or "").partition(".")[0] in PACKAGES:
            known |= {name.asname or name.name: f"{statement.module}.{name.name}" for name in statement.names}

    def spelled(node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            start = spelled(node.value)
            return start and f"{start}.{node.attr}"
        return known.get(node.id, "") if isinstance(node, ast.Name) else ""

    names = {spelled(node) for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute))}
    yield from (name for name in names if not any(other.startswith(f"{name}.") for other in names))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_everything_that_a_file_reaches_is_listed(path: Path) -> None:
    listed = {name.replace(":", ".") for name in REQUIRED}
    modules = {name.partition(":")[0] for name in REQUIRED}
    for name in filter(None, reached(path)):
        assert name in modules or any(name == one or name.startswith(f"{one}.") or one.startswith(f"{name}.") for one in listed), name


def test_nothing_is_listed_twice() -> None:
    assert [name for name, count in Counter(REQUIRED).items() if count > 1] == []


def test_what_is_missing_is_named_with_the_tested_versions() -> None:
    assert missing(["json:dumps", "json:gone", "not_there:at_all"]) == ["json:gone", "not_there:at_all"]
    with pytest.raises(MissingPackageError, match=r"lacks json:gone, .* 0\.8\.0, 0\.18\.1 and 0\.33\.0"):
        check_requirements(["json:gone"])
