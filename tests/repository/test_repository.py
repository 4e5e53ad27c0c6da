"""The repository keeps its own promises: lists in step, files small and plain, imports light, weights as the manifest says."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rapiddraw.core.paths import pack_root

ROOT = pack_root()
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "basicsr",
    "spandrel",
    "matplotlib",
    "accelerate",
    "torchvision",
    "PIL",
    "numpy",
    "einops",
    "fastapi",
    "uvicorn",
    "starlette",
    "prometheus_client",
    "ray",
)
SKIPPED = {".git", ".venv", "out", "served", "runs", "data", "input", "temp", "build", "__pycache__"}


def files(*suffixes):
    """Every file that belongs to the repository, by suffix (all where none is given)."""
    for folder, folders, names in os.walk(ROOT):
        at_root = Path(folder) == ROOT
        hidden = {f for f in folders if f.startswith(".") and f != ".ci" or f.endswith(".egg-info") or f == "__pycache__"}
        folders[:] = sorted(f for f in folders if f not in hidden and not (at_root and f in SKIPPED))
        yield from (Path(folder) / name for name in sorted(names) if not suffixes or name.endswith(suffixes))


def project():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_requirements_are_the_projects_dependencies():
    listed = [line.strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    assert [line for line in listed if line and not line.startswith("#")] == project()["project"]["dependencies"]


def test_requirements_are_lower_bounds_only():
    settings = project()["project"]
    for line in [*settings["dependencies"], *(one for extra in settings["optional-dependencies"].values() for one in extra)]:
        assert not re.search(r"==|<=|~=|@", line.split(";")[0]), line


def test_the_package_list_follows_the_tree():
    inside = {
        "rapiddraw." + ".".join(p.parent.relative_to(ROOT).parts)
        for p in files("__init__.py")
        if p.parent != ROOT and "tests" not in p.parts
    }
    assert sorted(project()["tool"]["setuptools"]["packages"]) == sorted({"rapiddraw", *inside})


def test_every_folder_of_the_library_is_a_package():
    for path in files(".py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] in ("core", "nodes", "api", "serve", "cli", "benchmarks"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py: it would not be installed"


def test_what_the_registry_of_comfyui_wants_to_know():
    comfy = project()["tool"]["comfy"]
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui"} <= comfy.keys()
    assert "web" not in comfy, "WEB_DIRECTORY already serves web/; naming it here too would load every script twice"
    assert not project()["project"]["name"].startswith("comfy")


def test_no_file_is_large():
    """At most 8 MB; a bundle of weights may have 20."""
    limits = {p: (20 if p.suffix == ".safetensors" else 8) * 2**20 for p in files()}
    assert not {str(p.relative_to(ROOT)): p.stat().st_size for p, limit in limits.items() if p.stat().st_size > limit}


def test_sources_are_plain():
    for path in files(".py"):
        try:
            path.read_text(encoding="utf-8").encode("cp1252")
        except UnicodeError as error:
            raise AssertionError(f"{path}: a character outside CP1252; Chinese belongs in data files ({error})") from error


def test_json_files_are_json():
    for path in files(".json"):
        if "broken" not in path.name and "tests" not in path.parts:
            json.loads(path.read_text(encoding="utf-8"))


def test_the_library_never_evaluates_unpickles_or_fetches():
    forbidden = {"eval", "exec", "compile", "__import__"}
    modules = {"pickle", "marshal", "shelve", "socket", "urllib", "requests", "http", "subprocess"}
    for path in files(".py"):
        if path.relative_to(ROOT).parts[0] not in ("core", "nodes"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden, f"{path}:{node.lineno}"
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.split(".")[0] for name in names} & modules, f"{path}:{node.lineno} imports {names}"


def test_nothing_that_comfy_test_forbids():
    """Its level `syntax` reads every file, tests too. Layers are imported by name (`from torch.nn import Conv2d`): `core` runs without
    ComfyUI, which has no `operations` to give there."""
    layers = "Linear|Conv[123]d|ConvTranspose[12]d|LayerNorm|GroupNorm|Embedding"
    forbidden = re.compile(rf"(?<![\w.])(torch\.)?nn\.({layers})\s*\(|\.cuda\s*\(|\.to\(\s*[\"']cuda|torch\.(cuda\.)?(amp\.)?autocast")
    for path in files(".py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not forbidden.search(line) or "forbidden = " in line, f"{path}:{number}: {line.strip()}"


def test_imports_run_one_way():
    """nodes -> core -> libraries; ComfyUI is known to core/host/comfy/*.py alone."""
    comfy = {"comfy", "folder_paths", "nodes", "comfy_extras", "execution", "server", "comfy_execution", "comfy_api"}
    for path in files(".py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] != "core":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                target = list(parts[: len(parts) - node.level]) + (node.module or "").split(".")
                assert target[0] == "core", f"{path}:{node.lineno}: core reaches outside itself"
            elif isinstance(node, ast.ImportFrom | ast.Import) and not path.match("core/host/comfy/*.py"):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not {name.split(".")[0] for name in names} & comfy, f"{path}:{node.lineno}: ComfyUI outside core/host/comfy/*.py"
                assert not any(name.split(".")[0] == "rapiddraw" for name in names), f"{path}:{node.lineno}: use a relative import"


def test_importing_the_pack_is_light():
    probe = f"import sys, rapiddraw; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)  # noqa: S603 - our own words
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_shipped_weights_are_the_manifests():
    from rapiddraw.core.bundles.manifest import MAX_TOTAL_BYTES, check_manifest, read_manifest

    assert check_manifest(ROOT / "weights") == []
    assert sum(entry["bytes"] for entry in read_manifest(ROOT / "weights").values()) < MAX_TOTAL_BYTES
