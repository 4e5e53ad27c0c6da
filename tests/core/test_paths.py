"""core.paths: bundles are found by what they are, and no name leaves its folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import PureWindowsPath

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles import find
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.errors import BundleError, InputError


@pytest.fixture
def weights(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("RAPIDDRAW_WEIGHTS", str(folder))
    save_bundle(folder / "anything.safetensors", {"w": torch.zeros(2)}, BundleInfo("kg"))
    save_bundle(folder / "sub" / "deep.safetensors", {"w": torch.zeros(2)}, BundleInfo("judge"))
    (folder / "broken.safetensors").write_bytes(b"\x00" * 5)
    return folder


def test_the_pack_root_holds_the_package():
    assert (paths.pack_root() / "core" / "paths.py").is_file()
    assert (paths.pack_root() / "nodes").is_dir()


def test_bundles_are_listed_by_header_kind(weights):
    assert "anything.safetensors" in find.list_bundles("kg")
    assert "anything.safetensors" not in find.list_bundles("judge")
    assert "sub/deep.safetensors" in find.list_bundles("judge")
    assert {"anything.safetensors", "sub/deep.safetensors"} <= set(find.list_bundles())
    assert "broken.safetensors" not in find.list_bundles()


def test_a_listed_name_resolves_to_its_file(weights):
    assert find.resolve_bundle("sub/deep.safetensors", "judge") == (weights / "sub" / "deep.safetensors").resolve()


def test_the_listing_follows_a_file_that_is_replaced(weights):
    assert "anything.safetensors" in find.list_bundles("kg")
    save_bundle(weights / "anything.safetensors", {"w": torch.zeros(3, 3)}, BundleInfo("esrgan"))
    assert "anything.safetensors" not in find.list_bundles("kg")
    assert "anything.safetensors" in find.list_bundles("esrgan")


def test_an_unknown_bundle_names_its_neighbours(weights):
    with pytest.raises(BundleError, match="anything.safetensors"):
        find.resolve_bundle("anythin.safetensors", "kg")
    with pytest.raises(BundleError, match="kind 'kg'"):
        find.resolve_bundle("anything.safetensors", "judge")


def test_added_folders_are_searched_once(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_extra_weights", [])
    paths.add_weights_dir(tmp_path)
    paths.add_weights_dir(tmp_path)
    assert paths.weights_dirs().count(tmp_path) == 1
    assert paths.weights_dirs()[0] == paths.pack_root() / "weights"


@pytest.mark.parametrize(
    "name",
    ["", "  ", ".", "..", "../x", "a/../../x", "/etc/passwd", r"\\host\x", r"..\x", r"C:\x", "c:x", "~/x", "a\0b", "a/" * 999, "x" * 300],
)
def test_hostile_names_are_refused(tmp_path, name):
    with pytest.raises(InputError):
        paths.safe_join(tmp_path, name)


def test_a_symlink_out_of_the_folder_is_refused(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("x")
    os.symlink(outside, inside / "link")
    os.symlink(inside / "loop", inside / "loop")
    for name in ("link", "link/secret", "loop"):
        with pytest.raises(InputError):
            paths.safe_join(inside, name)


def test_a_folder_reached_by_a_symlink_is_fine(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    os.symlink(real, tmp_path / "alias")
    assert paths.safe_join(tmp_path / "alias", "a/b.png") == real.resolve() / "a" / "b.png"


def test_names_with_dots_and_non_latin_letters_are_fine(tmp_path):
    for name in ("v1..2.png", ".hidden", "a b/\u679c.png"):
        assert paths.safe_join(tmp_path, name).parent.is_relative_to(tmp_path.resolve())


def test_directories_can_be_set(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_dirs", {})
    assert [paths.input_dir().name, paths.output_dir().name, paths.temp_dir().name] == ["input", "out", "temp"]
    paths.set_dirs(output=tmp_path / "o")
    paths.set_dirs(input=tmp_path / "i")
    assert paths.output_dir() == tmp_path / "o"
    assert paths.input_dir() == tmp_path / "i"


def test_the_hash_follows_the_content(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"one")
    assert paths.file_sha256(file) == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"other")
    assert paths.file_sha256(file) == hashlib.sha256(b"other").hexdigest()
    with pytest.raises(InputError, match="missing"):
        paths.file_sha256(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("con", "device"), ("NUL.png", "device"), ("a/com1.safetensors", "device"), (r"a\aux .txt", "device"), ("CONIN$", "device"),
        ("a.", "dot or a space"), ("a /b.png", "dot or a space"), (r"deep\b. ", "dot or a space"),
        ("a:b.png", "holds ':'"), ("what?.png", "holds '?'"), ("a|b", "holds '|'"), ("a\tb", "holds"), ('"x"', "holds"),
        ("console.png", ""), ("com10.txt", ""), ("a.b c/d.png", ""), (r"sub\x.safetensors", ""), (".hidden", ""), ("v1..2.png", ""),
    ],
)  # fmt: skip
def test_what_windows_can_have_no_file_of(tmp_path, monkeypatch, name, said):
    flaw = paths.windows_flaw(name)
    assert (said in flaw) if said else flaw == ""
    monkeypatch.setattr(paths, "IS_WINDOWS", True)
    if said:
        with pytest.raises(InputError, match="no file name on Windows|plain relative name"):
            paths.safe_join(tmp_path, name)
    else:
        assert paths.safe_join(tmp_path, name).is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize("name", [r"..\x", r"a\..\..\x", r"C:\x", "D:x", r"\x", r"\\host\share\x", "//host/x", r"\\?\C:\x"])
def test_what_leads_outside_on_windows_is_refused_everywhere(tmp_path, name):
    inside = PureWindowsPath("C:/base")
    assert not (inside / name).is_relative_to(inside) or ".." in (inside / name).parts, "the example leads outside"
    for join in (paths.safe_join, paths.model_path):
        with pytest.raises(InputError, match="plain relative name"):
            join(tmp_path, name)


def test_names_with_backslashes_from_graphs_of_windows_are_found(weights):
    assert find.resolve_bundle(r"sub\deep.safetensors", "judge") == weights / "sub" / "deep.safetensors"
    (weights / r"odd\name").write_text("x")
    assert paths.model_path(weights, r"odd\name").is_file(), "a file whose name has a backslash comes first"


def test_weights_of_the_working_folder_are_found(tmp_path, monkeypatch):
    save_bundle(tmp_path / "weights" / "mine.safetensors", {"w": torch.zeros(2)}, BundleInfo("kg"))
    with pytest.raises(BundleError, match=r"no kg bundle named 'mine.safetensors'.*searched: .*weights"):
        find.resolve_bundle("mine.safetensors", "kg")
    monkeypatch.chdir(tmp_path)
    assert find.resolve_bundle("mine.safetensors", "kg") == tmp_path / "weights" / "mine.safetensors"
    assert paths.weights_dirs()[0] == paths.pack_root() / "weights", "the pack's own come first"
