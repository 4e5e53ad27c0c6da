"""The ESRGAN nodes: what they list, load, refuse and hand on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.upscale.layouts import RRDBConfig, to_basicsr, to_sequential
from rapiddraw.core.upscale.rrdb import build
from rapiddraw.nodes.upscale import NODE_CLASS_MAPPINGS, ESRGANLoader, ESRGANUpscale


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with one upscaler of each sort, and other things."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    state = to_basicsr(build(RRDBConfig(3, 3, 8, 1, 32), "spandrel").state_dict())
    state = {key: torch.randn(t.shape, generator=generator) * 0.05 for key, t in state.items()}
    save_bundle(tmp_path / "ours.safetensors", state, BundleInfo("esrgan"))
    save_bundle(tmp_path / "vae.safetensors", {"a": torch.zeros(1)}, BundleInfo("vae"))
    (tmp_path / "more").mkdir()
    save_file(to_sequential(state), tmp_path / "more" / "plain.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "lora.safetensors")
    torch.save({"params_ema": state}, tmp_path / "old.pth")
    (tmp_path / "notes.txt").write_text("hello")
    monkeypatch.setattr(paths, "weights_dirs", lambda: [tmp_path])
    return tmp_path


def test_the_list_holds_upscalers_and_nothing_else(folder):
    assert ESRGANLoader.INPUT_TYPES()["required"]["model_name"][0] == ["more/plain.safetensors", "old.pth", "ours.safetensors"]


def test_an_empty_folder_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "weights_dirs", lambda: [tmp_path])
    (choice,) = ESRGANLoader.INPUT_TYPES()["required"]["model_name"][0]
    assert "train" in choice
    with pytest.raises(BundleError, match="RAPIDDRAW_WEIGHTS"):
        ESRGANLoader().execute(choice)


def test_every_sort_of_file_enlarges_alike(folder):
    image = torch.rand(2, 9, 5, 3, generator=torch.Generator().manual_seed(1))
    results = []
    for name in ("ours.safetensors", "more/plain.safetensors", "old.pth"):
        (model,) = ESRGANLoader().execute(name)
        (result,) = ESRGANUpscale().execute(model, image, factor=0.0, long_side=0, tile=512, overlap=32)
        assert result.shape == (2, 36, 20, 3)
        results.append(result)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_factor_and_long_side(folder):
    (model,) = ESRGANLoader().execute("ours.safetensors")
    image = torch.rand(1, 8, 12, 4)
    assert ESRGANUpscale().execute(model, image, 2.5, 0, 64, 8)[0].shape == (1, 20, 30, 4)
    assert ESRGANUpscale().execute(model, image, 2.5, 60, 64, 8)[0].shape == (1, 40, 60, 4)


def test_a_native_descriptor_is_taken_and_gives_the_same(folder):
    spandrel = pytest.importorskip("spandrel")
    from safetensors.torch import load_file

    native = spandrel.ModelLoader().load_from_state_dict(load_file(folder / "ours.safetensors")).eval()
    image = torch.rand(1, 7, 10, 3, generator=torch.Generator().manual_seed(2))
    (ours,) = ESRGANLoader().execute("ours.safetensors")
    arguments = (image, 0.0, 0, 512, 32)
    torch.testing.assert_close(
        ESRGANUpscale().execute(native, *arguments)[0], ESRGANUpscale().execute(ours, *arguments)[0], rtol=0, atol=1e-6
    )


def test_what_the_stock_node_does_with_an_upscaler(folder):
    """ImageUpscaleWithModel counts the bytes of `.model`, moves it, calls it on NCHW, reads `.scale`, and moves it back."""
    (model,) = ESRGANLoader().execute("ours.safetensors")
    assert sum(t.nbytes for t in model.model.state_dict().values()) > 0
    model.to(torch.device("cpu"))
    assert model(torch.rand(1, 3, 6, 6).float()).shape == (1, 3, 6 * model.scale, 6 * model.scale)
    model.to("cpu")


def test_names_are_checked(folder):
    for name in ("../ours.safetensors", "/etc/passwd", "more/../../x.pth"):
        with pytest.raises(InputError):
            ESRGANLoader().execute(name)
    with pytest.raises(BundleError, match="near it there is ours.safetensors"):
        ESRGANLoader().execute("our.safetensors")
    with pytest.raises(BundleError, match="vae.safetensors.*kind 'vae'"):
        ESRGANLoader().execute("vae.safetensors")
    with pytest.raises(BundleError, match="no upscaler named 'notes.txt'"):
        ESRGANLoader().execute("notes.txt")


def test_is_changed_follows_the_content(folder):
    first = ESRGANLoader.IS_CHANGED("old.pth")
    torch.save({}, folder / "old.pth")
    assert ESRGANLoader.IS_CHANGED("old.pth") != first


def test_every_input_and_output_explains_itself():
    for node in NODE_CLASS_MAPPINGS.values():
        for _name, (_kind, options) in node.INPUT_TYPES()["required"].items():
            assert len(options["tooltip"]) > 20
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)


def test_listing_needs_no_torch():
    code = (
        "import sys; from rapiddraw.nodes.upscale import NODE_CLASS_MAPPINGS as nodes; [n.INPUT_TYPES() for n in nodes.values()];"
        "sys.exit(any(m in sys.modules for m in ('torch', 'basicsr', 'spandrel', 'torchvision')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 (our own interpreter and code)
