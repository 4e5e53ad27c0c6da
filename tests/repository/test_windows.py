"""Nothing in the pack needs make, a POSIX shell, POSIX paths or calls that Windows does not have; the console script is `python -m`.

Rules of names on Windows are tested in tests/core/test_paths.py.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from rapiddraw.core.paths import pack_root

ROOT = pack_root()
PACK = ("core", "nodes", "api", "cli", "serve")
MODULES = {"fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog", "posix", "crypt"}
CALLS = {
    "os": {
        "fork",
        "forkpty",
        "getuid",
        "geteuid",
        "getgid",
        "mkfifo",
        "setsid",
        "symlink",
        "sched_setaffinity",
        "nice",
    },
    "signal": {"SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "alarm", "pause", "setitimer"},
}
PLACES = re.compile(r"^(/(tmp|dev|proc|usr|etc|bin|var|home|opt)(/|$)|(\./)?[\w.]*bin/\w+$|sh$|bash$|/bin/)")
GUARDED = {
    "core/device.py": "/proc/meminfo",  # where it cannot be read, the free memory is not known
    "cli/comfy.py": "bin/python",  # beside Scripts/python.exe
}
WITH_EXEC = {"cli/comfy.py": 'os.name == "nt"'}
"""Where a process replaces itself, and what must stand before it."""


@lru_cache
def sources() -> dict[str, str]:
    inside = [path for part in PACK for path in sorted((ROOT / part).rglob("*.py"))]
    paths: list[Path] = [ROOT / "__init__.py", ROOT / "__main__.py", *inside]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for name, text in sources().items():
        for node in ast.walk(ast.parse(text)):
            yield name, node


def test_no_module_and_no_call_that_windows_lacks() -> None:
    for name, node in nodes():
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            level = node.level if isinstance(node, ast.ImportFrom) else 0
            assert level or not {one.split(".")[0] for one in imported} & MODULES, f"{where}: {imported}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.attr not in CALLS.get(node.value.id, ()), f"{where}: {node.value.id}.{node.attr}"
            if node.attr.startswith(("exec", "spawn")) and node.value.id == "os":
                assert name in WITH_EXEC and WITH_EXEC[name] in sources()[name], f"{where}: os.{node.attr}"
        if isinstance(node, ast.Call):
            assert "shell" not in {word.arg for word in node.keywords}, f"{where}: a shell"


def test_no_path_of_posix_and_no_shell() -> None:
    found = {
        (name, node.value)
        for name, node in nodes()
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and PLACES.match(node.value) and "\n" not in node.value
    }
    assert found == set(GUARDED.items())


def test_text_files_name_their_encoding() -> None:
    """Without one Windows reads and writes cp1252."""
    for name, node in nodes():
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = {word.arg for word in node.keywords}
        plain = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        mode = next((word.value.value for word in node.keywords if word.arg == "mode" and isinstance(word.value, ast.Constant)), "")
        is_text = called in ("read_text", "write_text") or (
            called == "open" and (isinstance(node.func, ast.Name) or not node.args or bool(plain))
        )
        if called == "open" and ("b" in str(mode) or any(re.fullmatch("[rwax+]*b[rwax+]*", one) for one in plain)):
            is_text = False
        if called == "open" and isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in ("os", "Image"):
            is_text = False
        if called == "read_text" and node.args:
            is_text = False
        assert not is_text or "encoding" in words, f"{name}:{node.lineno}: {called} without encoding"


@pytest.mark.parametrize("name", sorted(sources()))
def test_nobody_is_told_to_use_make_or_a_shell(name: str) -> None:
    words = re.compile(r"`make \w|\bmake (demo|test|setup|benchmarks|manifest)\b|\bchmod\b|\bexport [A-Z]+=")
    for node in ast.walk(ast.parse(sources()[name])):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not words.search(node.value), f"{name}: {node.value!r}"


def test_the_console_script_does_what_the_module_does() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["scripts"]["rapiddraw"].split(":")
    script = getattr(importlib.import_module(module), function)
    assert "main()" in (ROOT / "__main__.py").read_text(encoding="utf-8") and script.__name__ == "main"
    demo = re.search(r"^demo:.*\n\t\$\(BIN\)/python -m rapiddraw (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert demo and demo[1] == "run workflows/api/text_to_image.json --output out", "README's `rapiddraw run text_to_image --output out`"
