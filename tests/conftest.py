"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from rapiddraw.core import paths, progress

settings.register_profile("repeatable", derandomize=True)  # the same examples in every run
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny random bundles, one of each kind; see tests/helpers.py. Do not write into it."""
    from rapiddraw.tests.helpers import write_bundles

    return write_bundles(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def tiny_pack(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny bundles are the only ones nodes can see, and input, output and temp folders lie in the returned folder."""
    monkeypatch.setattr(paths, "weights_dirs", lambda: [tiny_weights])
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setitem(paths._dirs, name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests measure is not remembered on this machine, and what is remembered does not reach tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAPIDDRAW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_cancel_left_over() -> Iterator[None]:
    """A test that asks for a stop must not stop the next one."""
    progress.clear_cancel()
    yield
    progress.clear_cancel()
