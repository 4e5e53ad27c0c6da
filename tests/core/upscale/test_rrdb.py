"""ESRGAN weights: three key layouts, two libraries, one picture; and what is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.errors import BundleError, InputError, MissingPackageError
from rapiddraw.core.upscale import basicsr_shim
from rapiddraw.core.upscale.layouts import RRDBConfig, derive, layout_of, to_basicsr, to_sequential, unwrap
from rapiddraw.core.upscale.rrdb import Upscaler, build, from_state, load_upscaler, pad_to_multiple

GRID = [
    RRDBConfig(3, 3, 16, 2, 32, 2, 1),  # x4
    RRDBConfig(3, 3, 8, 1, 32, 2, 2),  # x2, folded by 2
    RRDBConfig(3, 3, 8, 1, 32, 2, 4),  # x1, folded by 4
    RRDBConfig(3, 3, 8, 2, 32, 1, 1),  # x2 with one upsampling, as only the oldest networks are
    RRDBConfig(1, 1, 8, 1, 32, 2, 1),  # grey
]
needs_basicsr = pytest.mark.skipif(not basicsr_shim.available(), reason="basicsr is not installed")


def weights(config: RRDBConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights in BasicSR's layout, drawn from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    state = to_basicsr(build(config, "spandrel").state_dict())
    return {key: torch.randn(t.shape, generator=generator) * 0.05 for key, t in state.items()}


def legacy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}

    def rename(key: str) -> str:
        head, _, rest = key.partition(".")
        if head == "body":
            return "RRDB_trunk." + rest.replace("rdb", "RDB")
        return f"{names.get(head, head)}.{rest}"

    return {rename(key): tensor for key, tensor in state.items()}


@pytest.mark.parametrize("config", GRID)
def test_every_hyper_parameter_comes_from_shapes(config):
    assert derive(weights(config)) == config


@pytest.mark.parametrize("config", GRID)
def test_all_layouts_give_equal_pixels_at_odd_sizes(config):
    state = weights(config)
    image = torch.rand(2, config.in_channels, 13, 7, generator=torch.Generator().manual_seed(1))
    layouts = {"basicsr": state, "legacy": legacy(state), "sequential": to_sequential(state)}
    results = []
    for name, layout in layouts.items():
        assert layout_of(layout) == name
        for backend in ("spandrel", *(["basicsr"] if basicsr_shim.available() and config.upsamples == 2 else [])):
            results.append(from_state(layout, backend)(image))
    assert results[0].shape == (2, config.out_channels, 13 * config.scale, 7 * config.scale)
    assert results[0].std() > 0
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-6)


def test_old_layouts_go_back_and_forth_unchanged():
    state = weights(GRID[0])
    for layout in (legacy(state), to_sequential(state), to_sequential(legacy(state))):
        back = to_basicsr(layout)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize(
    "wrap", [lambda s: {"params_ema": s, "params": {}}, lambda s: {"params": s}, lambda s: {"state_dict": {"params": s}}]
)
def test_wrapped_checkpoints_are_unwrapped(wrap):
    state = weights(GRID[0])
    assert unwrap(wrap(state)).keys() == state.keys()
    assert unwrap({f"module.{key}": tensor for key, tensor in state.items()}).keys() == state.keys()


@needs_basicsr
def test_growth_other_than_32_is_basicsrs_alone(monkeypatch):
    config = RRDBConfig(3, 3, 8, 1, 16)
    network = build(config)
    assert derive(network.state_dict()) == config
    monkeypatch.setattr(basicsr_shim, "_import_basicsr", lambda: "it is not installed")
    with pytest.raises(MissingPackageError, match="16 growth channels"):
        from_state(network.state_dict())


def test_without_basicsr_spandrel_takes_over(monkeypatch):
    monkeypatch.setattr(basicsr_shim, "_import_basicsr", lambda: "it is not installed")
    assert type(from_state(weights(GRID[0])).model).__module__.startswith("spandrel.")
    with pytest.raises(MissingPackageError, match="pip install --no-build-isolation basicsr"):
        basicsr_shim.discriminator_class()


def test_without_either_the_error_names_both(monkeypatch):
    monkeypatch.setattr(basicsr_shim, "_import_basicsr", lambda: "it is not installed")
    monkeypatch.setitem(sys.modules, "spandrel.architectures.ESRGAN", None)
    with pytest.raises(MissingPackageError, match="spandrel or basicsr"):
        from_state(weights_of_nothing())


def weights_of_nothing() -> dict[str, torch.Tensor]:
    """The smallest complete ESRGAN mapping, made without any library."""
    shapes = {"conv_first": (8, 3), "conv_body": (8, 8), "conv_up1": (8, 8), "conv_up2": (8, 8), "conv_hr": (8, 8), "conv_last": (3, 8)}
    shapes |= {f"body.0.rdb{r}.conv{k}": (32 if k < 5 else 8, 8 + 32 * (k - 1)) for r in (1, 2, 3) for k in (1, 2, 3, 4, 5)}
    state = {f"{name}.weight": torch.zeros(*shape, 3, 3) for name, shape in shapes.items()}
    return state | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}


@needs_basicsr
def test_the_shim_leaves_nothing_behind():
    basicsr_shim.rrdbnet_class()
    assert "torchvision.transforms.functional_tensor" not in sys.modules
    with basicsr_shim.functional_tensor_shim():
        from torchvision.transforms.functional_tensor import rgb_to_grayscale

        assert rgb_to_grayscale(torch.ones(3, 2, 2)).shape == (1, 2, 2)
    assert "torchvision.transforms.functional_tensor" not in sys.modules


def test_loading_draws_nothing_from_the_global_random_state():
    state = weights(GRID[0])
    before = torch.get_rng_state()
    from_state(state)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["plain.safetensors", "bundle.safetensors", "model.pth", "wrapped.pth"])
def test_files_of_every_kind_give_the_same_upscaler(tmp_path, name):
    from safetensors.torch import save_file

    state, path = weights(GRID[0]), tmp_path / name
    if name == "plain.safetensors":
        save_file(to_sequential(state), path)
    elif name == "bundle.safetensors":
        save_bundle(path, state, BundleInfo("esrgan"))
    else:
        torch.save({"params_ema": legacy(state)} if name == "wrapped.pth" else state, path)
    image = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(2))
    upscaler = load_upscaler(path)
    assert isinstance(upscaler, Upscaler) and upscaler.scale == 4 and upscaler.name == path.stem
    assert torch.equal(upscaler(image), from_state(state)(image))


class _Hostile:
    def __reduce__(self):
        return (eval, ("1+1",))


def test_broken_and_hostile_files_are_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    torch.save({"conv_first.weight": _Hostile()}, tmp_path / "hostile.pth")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"a": torch.full((2,), float("nan"))}, tmp_path / "nan.pth")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    save_bundle(tmp_path / "vae.safetensors", {"a": torch.zeros(2)}, BundleInfo("vae"))
    save_file({"a": torch.full((2,), float("inf"))}, tmp_path / "inf.safetensors")
    (tmp_path / "short.safetensors").write_bytes(b"\x10\0\0\0")
    for name in (
        "hostile.pth",
        "text.pth",
        "nan.pth",
        "other.safetensors",
        "vae.safetensors",
        "inf.safetensors",
        "short.safetensors",
        "no.pth",
    ):
        with pytest.raises(BundleError, match=name):
            load_upscaler(tmp_path / name)


def test_damaged_weights_are_bundle_errors():
    state = weights(GRID[0])
    for broken in (
        {k: v for k, v in state.items() if k != "conv_hr.weight"},
        {k: v for k, v in state.items() if k != "body.1.rdb2.conv3.weight"},
        state | {"body.0.rdb1.conv2.weight": torch.zeros(32, 9, 3, 3)},
        {"encoder.weight": torch.zeros(2)},
    ):
        with pytest.raises(BundleError):
            from_state(broken, "spandrel")
    with pytest.raises(BundleError, match="ESRGAN\\+"):
        from_state(to_sequential(state) | {"model.1.sub.0.RDB1.conv1x1.weight": torch.zeros(1)})


def test_padding_reflects_and_a_strip_is_repeated():
    row = torch.arange(3.0).reshape(1, 1, 1, 3)
    assert pad_to_multiple(row, 4)[0, 0].tolist() == [[0, 1, 2, 2]] * 4  # one row high: nothing to reflect
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert pad_to_multiple(square, 4)[0, 0, 0].tolist() == [0, 1, 2, 1]
    assert pad_to_multiple(square, 3) is square


def test_a_wrong_image_says_what_was_expected():
    upscaler = from_state(weights(GRID[0]), "spandrel")
    with pytest.raises(InputError, match="3, height, width"):
        upscaler(torch.zeros(1, 4, 8, 8))
    assert upscaler(torch.full((1, 3, 4, 4), 50.0)).max() <= 1
