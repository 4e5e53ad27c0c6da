"""Limits on the code of the library: few parameters a function, and tests of `core` that stand on `core` alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from rapiddraw.core.paths import pack_root

ROOT = pack_root()
MOST_PARAMETERS = 8
ARGUED = {
    "core/diffusion/samplers/dpmpp.py: sample_dpmpp_2m_sde": "k-diffusion's signature; ComfyUI's KSAMPLER passes options by name",
    "core/diffusion/samplers/euler.py: sample_euler_ancestral": "k-diffusion's signature; ComfyUI's KSAMPLER passes options by name",
    "core/graph/stock/sampling.py: KSampler.sample": "the inputs of ComfyUI's stock node, which graphs give by name",
    "core/graph/stock/sampling.py: KSamplerAdvanced.sample": "the inputs of ComfyUI's stock node, which graphs give by name",
    "core/host/comfy/guiders.py: _Leader.inner_sample": "overrides a method of ComfyUI's CFGGuider",
}
"""Functions that keep more parameters, each with the reason."""


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(qualified name, node) of every function below `tree`, methods and inner functions included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node
        inner = f"{prefix}{node.name}." if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else prefix
        yield from functions(node, inner)


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many parameters a caller can give; `self` and `cls` are not counted."""
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_no_function_takes_many_parameters() -> None:
    over = {
        f"{path.relative_to(ROOT).as_posix()}: {name}"
        for path in sorted((ROOT / "core").rglob("*.py"))
        for name, node in functions(ast.parse(path.read_text(encoding="utf-8")))
        if parameters(node) > MOST_PARAMETERS
    }
    assert not over - ARGUED.keys(), f"more than {MOST_PARAMETERS} parameters: put those that belong together into a small frozen dataclass"
    assert not ARGUED.keys() - over, "these have few parameters now, or are gone: take their lines out of ARGUED"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "core").rglob("*.py")), ids=lambda path: path.stem)
def test_tests_of_the_library_do_without_benchmarks(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom | ast.Import) else []
        reached = [name for name in names if "benchmarks" in name.split(".")]
        assert not reached, f"{path}:{node.lineno} imports {reached}; a test of `core` stands on `core` alone"
