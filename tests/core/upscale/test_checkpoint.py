"""Weight files of upscalers as people save them, and as an attacker would: loaded, or refused in one line of our own."""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rapiddraw.core.errors import BundleError, RapidDrawError
from rapiddraw.core.upscale.find import list_upscalers
from rapiddraw.core.upscale.layouts import RRDBConfig, layout_of, prefix_of, to_basicsr, to_sequential, unwrap
from rapiddraw.core.upscale.rrdb import Upscaler, build, from_state, load_upscaler
from safetensors.torch import save_file

CONFIG = RRDBConfig(3, 3, 8, 1, 32, 2, 1)
IMAGE = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(2))
FIRST = "conv_first.weight"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    named = to_basicsr(build(CONFIG, "spandrel").state_dict())
    return {key: torch.randn(t.shape, generator=generator) * 0.05 for key, t in named.items()}


@pytest.fixture(scope="module")
def pixels(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return from_state(state)(IMAGE)


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + key: tensor for key, tensor in state.items()}


WRAPS = {
    "params-ema": lambda s: {"params-ema": s, "params": {}},
    "net": lambda s: {"net": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"lr": 1e-4}},
    "netG.": lambda s: prefixed(s, "netG."),
    "state_dict of a GAN": lambda s: {"state_dict": {**prefixed(s, "generator."), "discriminator.conv.weight": torch.zeros(2)}},
    "lightning": lambda s: {"state_dict": prefixed(s, "model.net_g."), "epoch": 1},
    "parallel": lambda s: {"params_ema": prefixed(s, "module."), "params": {FIRST: torch.zeros(1)}},
    "unknown name": lambda s: {"weights_of_mine": s},
    "sequential in netG": lambda s: {"netG": to_sequential(s)},
}


@pytest.mark.parametrize("name", WRAPS)
def test_every_wrapper_and_prefix_gives_the_same_pixels(name, state, pixels, tmp_path):
    torch.save(WRAPS[name](state), tmp_path / "wrapped.pth")
    assert torch.equal(load_upscaler(tmp_path / "wrapped.pth")(IMAGE), pixels)


@pytest.mark.parametrize("prefix", ["", "netG.", "params_ema.module.", "a.b.c."])
def test_prefixes_in_safetensors_files_are_found_and_listed(prefix, state, pixels, tiny_pack):
    from rapiddraw.core import paths

    folder = paths.weights_dirs()[0]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(prefixed(state, prefix), folder / "foreign.safetensors")
    assert "foreign.safetensors" in list_upscalers()
    assert torch.equal(load_upscaler(folder / "foreign.safetensors")(IMAGE), pixels)


def test_of_several_networks_the_preferred_one_counts(state):
    both = prefixed(state, "params.") | prefixed(state, "params_ema.") | prefixed(state, "netD.")
    assert prefix_of(both) == "params_ema." and layout_of(unwrap(both)) == "basicsr"
    assert prefix_of(["a", "b.weight"]) is None and prefix_of([]) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_every_plain_type_of_number_loads(dtype, ending, state, tmp_path):
    path, cast = tmp_path / f"typed.{ending}", {key: (tensor * 10).to(dtype) for key, tensor in state.items()}
    torch.save(cast, path) if ending == "pth" else save_file(cast, path)
    expected = from_state({key: tensor.float() for key, tensor in cast.items()})(IMAGE)
    assert torch.equal(load_upscaler(path)(IMAGE), expected)


ODD = {
    "sparse": (lambda t: t.flatten(1).to_sparse(), "sparse"),
    "compressed rows": (lambda t: t.flatten(1).to_sparse_csr(), "sparse"),
    "complex": (lambda t: t.to(torch.complex64), "complex64"),
    "meta": (lambda t: t.to("meta"), "no values"),
    "quantized": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "qint8"),
    "expanded": (lambda t: torch.zeros(1).expand(10**7, 10**7), "more than the file holds"),
    "infinite": (lambda t: t / 0, "NaN or infinite"),
    "float8 NaN": (lambda t: torch.full_like(t, float("nan")).to(torch.float8_e4m3fn), "NaN or infinite"),
    "a number": (lambda t: 3.5, "no plain mapping"),
    "a text": (lambda t: "weights", "no plain mapping"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_are_named_and_refused_at_once(kind, state, tmp_path):
    make, says = ODD[kind]
    torch.save(state | {FIRST: make(state[FIRST])}, tmp_path / "odd.pth")
    started = time.monotonic()
    with pytest.raises(BundleError, match="odd.pth") as caught:
        load_upscaler(tmp_path / "odd.pth")
    assert says in str(caught.value) and (FIRST in str(caught.value) or "mapping" in says)
    assert "\n" not in str(caught.value) and time.monotonic() - started < 5


def test_a_compressed_archive_is_refused_before_it_is_unpacked(state, tmp_path):
    big = state | {FIRST: torch.zeros(64, 3, 128, 128)}
    torch.save(big, tmp_path / "big.pth")
    with zipfile.ZipFile(tmp_path / "big.pth") as source, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in source.infolist():
            packed.writestr(entry.filename, source.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 10**6
    with pytest.raises(BundleError, match=r"bomb\.pth .* compressed entries"):
        load_upscaler(tmp_path / "bomb.pth")


class _Runs:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_that_run_code_are_refused(protocol, state, tmp_path):
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(state | {"x": _Runs()}, protocol))
    torch.save({"params": _Runs()}, tmp_path / "zipped.pth")
    for name in ("plain.pth", "zipped.pth"):
        with pytest.raises(BundleError, match=name):
            load_upscaler(tmp_path / name)


SHAPES = st.lists(st.integers(0, 9), max_size=5).map(torch.zeros)
VALUES = st.one_of(SHAPES, st.none(), st.integers(), st.text(max_size=3), st.dictionaries(st.text(max_size=2), SHAPES, max_size=2))


@settings(max_examples=120, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_mappings_load_or_are_refused(data, state):
    """Weights with tensors dropped, renamed, reshaped or replaced, in any wrapper: an upscaler or one of our errors, never another."""
    mutated: dict[Any, Any] = dict(state)
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(state)))
        change = data.draw(st.sampled_from(["drop", "rename", "reshape", "replace"]))
        value = mutated.pop(key, torch.zeros(1))
        if change == "rename":
            mutated[data.draw(st.sampled_from([key + "x", key.replace("0", "7"), "conv_up9.weight", "body.99.rdb1.conv1.weight"]))] = value
        elif change == "reshape":
            mutated[key] = data.draw(SHAPES)
        elif change == "replace":
            mutated[key] = data.draw(VALUES)
    wrap = data.draw(st.sampled_from([lambda s: s, *(wrap for name, wrap in WRAPS.items() if "sequential" not in name)]))
    try:
        assert isinstance(from_state(wrap(mutated), "spandrel"), Upscaler)
    except RapidDrawError as error:
        assert "\n" not in str(error)


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), ending=st.sampled_from(["pth", "old.pth", "safetensors"]))
def test_mutated_bytes_load_or_are_refused(data, ending, state, tmp_path):
    """Files with bytes flipped, cut out or put in: an upscaler or one of our errors that names the file, in limited time."""
    whole = _bytes_of(state, ending)
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of a file is numbers; its structure stands at the two ends.
        at = data.draw(st.one_of(st.integers(0, min(4000, len(whole) - 1)), st.integers(max(0, len(whole) - 9000), len(whole) - 1)))
        size = data.draw(st.integers(0, 8))
        whole = whole[:at] + data.draw(st.binary(max_size=8)) + whole[at + size :]
    path = tmp_path / f"mutated.{ending}"
    path.write_bytes(whole)
    started = time.monotonic()
    try:
        assert isinstance(load_upscaler(path, "spandrel"), Upscaler)
    except RapidDrawError as error:
        assert "mutated" in str(error) and "\n" not in str(error)
    assert time.monotonic() - started < 5


_made: dict[str, bytes] = {}


def _bytes_of(state: dict[str, torch.Tensor], ending: str) -> bytes:
    if ending not in _made:
        if ending == "safetensors":
            from safetensors.torch import save

            _made[ending] = save(state)
        else:
            buffer = io.BytesIO()
            torch.save(state, buffer, _use_new_zipfile_serialization=ending == "pth")
            _made[ending] = buffer.getvalue()
    return _made[ending]


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path):
    (tmp_path / "folder.pth").mkdir()
    for name in ("folder.pth", "missing.pth", "missing.safetensors"):
        with pytest.raises(BundleError, match=name):
            load_upscaler(tmp_path / name)
