"""A ComfyUI tree read as text: which names its modules have, found without importing anything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

DEPTH = 20  # imports and base classes are followed so far


class Tree:
    """The Python files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def version(self) -> str:
        """The version that the tree states."""
        return re.search(r'__version__ = "([^"]+)"', (self.root / "comfyui_version.py").read_text(encoding="utf-8"))[1]

    def missing(self, names: list[str] | tuple[str, ...]) -> list[str]:
        """Those of `names` (`module:attribute.attribute`) that the tree does not have."""
        return [name for name in names if not self.has(*name.split(":"))]

    def has(self, module: str, dotted: str, depth: int = DEPTH) -> bool:
        """Whether the module has the attribute. What only running the code would tell is looked for as a word of the module's text."""
        body = self.module(module)
        if body is None or not depth:
            return False
        first, _, rest = dotted.partition(".")
        found = [node for node in statements(body) if first in bound(node)]
        if not found:
            return self.module(f"{module}.{first}") is not None or self._star(module, body, dotted, depth)
        if not rest:
            return True
        for node in found:
            if isinstance(node, ast.ClassDef):
                if self._member(module, node, rest, depth):
                    return True
            elif isinstance(node, ast.ImportFrom):
                source, original = self.origin(module, node), next(a.name for a in node.names if first in (a.asname, a.name))
                if self.has(source, f"{original}.{rest}", depth - 1) or self.has(f"{source}.{original}", rest, depth - 1):
                    return True
            elif not isinstance(node, (ast.Import, ast.FunctionDef)) and self._word(module, rest):
                return True
        return False

    def _member(self, module: str, node: ast.ClassDef, name: str, depth: int) -> bool:
        first = name.partition(".")[0]
        if any(first in bound(inner) for inner in statements(node.body)) or re.search(rf"self\.{first}(:.*)? = ", ast.unparse(node)):
            return True
        return any(self.has(module, f"{ast.unparse(base)}.{name}", depth - 1) for base in node.bases)

    def _star(self, module: str, body: list[ast.stmt], name: str, depth: int) -> bool:
        stars = (node for node in body if isinstance(node, ast.ImportFrom) and node.names[0].name == "*")
        return any(self.has(self.origin(module, node), name, depth - 1) for node in stars)

    def _word(self, module: str, name: str) -> bool:
        text = self.path(module).read_text(encoding="utf-8")
        return re.search(rf"\b{name.replace('_', '[_-]')}\b", text) is not None

    def origin(self, module: str, node: ast.ImportFrom) -> str:
        """The module that an import names."""
        package = module.split(".") if self.path(module).name == "__init__.py" else module.split(".")[:-1]
        above = package[: len(package) - node.level + 1] if node.level else []
        return ".".join([*above, *filter(None, [node.module])])

    def path(self, module: str) -> Path | None:
        """The file of a module."""
        place = self.root.joinpath(*module.split("."))
        return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)

    @cache  # noqa: B019 - a tree lives as long as its tests
    def module(self, name: str) -> list[ast.stmt] | None:
        """The statements of a module, None where there is no such file."""
        path = self.path(name)
        return None if path is None else ast.parse(path.read_text(encoding="utf-8")).body


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, those inside `if`, `try` and `with` too."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody") if isinstance(node, (ast.If, ast.Try, ast.With)) else ():
            yield from statements(getattr(node, part, []))
        for handler in node.handlers if isinstance(node, ast.Try) else ():
            yield from statements(handler.body)


def bound(node: ast.stmt) -> set[str]:
    """The names that a statement binds."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, (ast.AnnAssign, ast.AugAssign)) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
