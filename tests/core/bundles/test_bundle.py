"""core.bundle: what is written reads back; what is damaged, unsafe or not a bundle is refused before it is loaded."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.cli import main
from rapiddraw.core.bundles.format import FORMAT_VERSION, BundleInfo, LatentSpace, Schedule, read_info, save_bundle
from rapiddraw.core.bundles.header import MAX_HEADER_BYTES
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError

FULL = BundleInfo(
    "unet",
    config={"width": 32, "blocks": [1, 2]},
    latent=LatentSpace(4, 8, 0.7, 0.1, ((0.1, 0.2, 0.3),) * 4, (0.0, 0.1, 0.2)),
    schedule=Schedule("eps", t_min=100),
    cfg_baked=True,
    provenance={"recipe": "test", "steps": 3, "metrics": {"loss": 0.5}},
    extra={"names": ["\u679c", "b"]},
)


def good(path, info=FULL):
    return save_bundle(path, {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.int32)}, info)


def raw(path, header, data=b"", length=None):
    """A file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def metadata(**changes):
    return {"__metadata__": {"rapiddraw": json.dumps({"kind": "kg", "format_version": 1} | changes)}}


def entry(shape, offsets, dtype="F32"):
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_round_trip(tmp_path):
    path = good(tmp_path / "sub" / "x.safetensors")
    back = load_bundle(path, "unet")
    assert back.info == BundleInfo(**{**FULL.__dict__, "path": path})
    assert torch.equal(back.tensors["a"], torch.arange(6.0).reshape(2, 3))
    assert back.tensors["b"].dtype == torch.int32
    assert read_info(path).schedule.t_min == 100


def test_small_dtypes_read_back(tmp_path):
    tensors = {
        str(i): torch.ones(3, dtype=dtype) for i, dtype in enumerate([torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.bool])
    }
    back = load_bundle(save_bundle(tmp_path / "x.safetensors", tensors, BundleInfo("kg"))).tensors
    assert [back[k].dtype for k in sorted(back)] == [t.dtype for t in tensors.values()]


def test_tensors_are_neither_changed_nor_kept(tmp_path):
    tensor = torch.arange(6.0).reshape(2, 3).t().requires_grad_()
    path = save_bundle(tmp_path / "x.safetensors", {"t": tensor}, BundleInfo("kg"))
    assert torch.equal(load_bundle(path).tensors["t"], tensor)
    assert tensor.requires_grad


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = good(tmp_path / "x.safetensors")
    before = path.read_bytes()

    def half(tensors, name, metadata):
        with open(name, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        good(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_nothing_broken_is_written(tmp_path):
    with pytest.raises(BundleError, match="NaN"):
        save_bundle(tmp_path / "x.safetensors", {"t": torch.tensor([1.0, float("nan")])}, BundleInfo("kg"))
    with pytest.raises(BundleError, match="kind 'novel'"):
        save_bundle(tmp_path / "x.safetensors", {}, BundleInfo("novel"))
    assert list(tmp_path.iterdir()) == []


def hostile(tmp_path):
    """name -> (file, what the message must say)."""
    whole = good(tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "h"
    path.mkdir()

    def write(name, content):
        (path / name).write_bytes(content)
        return path / name

    def foreign(name, tensors, meta=None):
        safetensors.torch.save_file(tensors, path / name, metadata=meta)
        return path / name

    kg = {"rapiddraw": json.dumps({"kind": "kg", "format_version": 1})}
    torch.save({"a": torch.zeros(2)}, path / "zip.safetensors")
    return {
        "missing": (path / "missing.safetensors", "no such file"),
        "empty": (write("empty.safetensors", b""), "truncated or empty"),
        "short": (write("short.safetensors", whole[:5]), "truncated or empty"),
        "cut in the header": (write("cut1.safetensors", whole[:40]), "truncated"),
        "cut in the data": (write("cut2.safetensors", whole[:-3]), "truncated or damaged"),
        "one byte more": (write("more.safetensors", whole + b"x"), "truncated or damaged"),
        "a pickle": (write("p.safetensors", pickle.dumps({"a": [1, 2]}, protocol=4)), "pickle"),
        "a torch file": (path / "zip.safetensors", "pickle"),
        "a .pth": (write("p.pth", whole), "pickle"),
        "oversized header": (write("big.safetensors", struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}"), "more than the"),
        "no JSON": (raw(path / "nojson.safetensors", b"{not json"), "not JSON"),
        "deep JSON": (raw(path / "deep.safetensors", b"[" * 200_000), "not JSON"),
        "a list": (raw(path / "list.safetensors", []), "not an object"),
        "metadata is a list": (raw(path / "metalist.safetensors", {"__metadata__": [1]}), "not a RapidDraw bundle"),
        "no bundle": (foreign("plain.safetensors", {"a": torch.zeros(2)}), "not a RapidDraw bundle"),
        "NaN": (foreign("nan.safetensors", {"a": torch.tensor([0.0, float("nan")])}, kg), "NaN"),
        "infinite": (foreign("inf.safetensors", {"a": torch.tensor([float("inf")], dtype=torch.bfloat16)}, kg), "NaN or infinite"),
        "other kind": (foreign("kind.safetensors", {}, {"rapiddraw": '{"kind": "novel"}'}), "unknown kind"),
        "newer": (raw(path / "newer.safetensors", metadata(format_version=FORMAT_VERSION + 1)), "update RapidDraw"),
        "version is text": (raw(path / "vtext.safetensors", metadata(format_version="9")), "format_version must be int"),
        "unknown field": (raw(path / "field.safetensors", metadata(surprise=1)), "cannot be understood"),
        "config is a list": (raw(path / "cfg.safetensors", metadata(config=[1])), "config must be dict"),
        "latent is text": (raw(path / "lat.safetensors", metadata(latent="x")), "cannot be understood"),
        "channels are text": (raw(path / "ch.safetensors", metadata(latent={"channels": "4"})), "channels must be int"),
        "prediction is a number": (raw(path / "pr.safetensors", metadata(schedule={"prediction": 3})), "prediction must be str"),
        "metadata is no JSON": (raw(path / "mj.safetensors", {"__metadata__": {"rapiddraw": "{"}}), "cannot be understood"),
        "metadata is a number": (raw(path / "mn.safetensors", {"__metadata__": {"rapiddraw": "3"}}), "cannot be understood"),
        "deep metadata": (raw(path / "md.safetensors", {"__metadata__": {"rapiddraw": "[" * 100_000}}), "cannot be understood"),
        "offsets beyond the end": (raw(path / "o1.safetensors", metadata() | entry([2], [0, 8])), "truncated or damaged"),
        "size and offsets disagree": (raw(path / "o2.safetensors", metadata() | entry([9], [0, 8]), b"\0" * 8), "set aside"),
        "negative offsets": (raw(path / "o3.safetensors", metadata() | entry([2], [-8, 0])), "set aside"),
        "offsets are text": (raw(path / "o4.safetensors", metadata() | entry([2], ["a", "b"]), b"\0" * 8), "malformed"),
        "negative shape": (raw(path / "o5.safetensors", metadata() | entry([-1, -2], [0, 8]), b"\0" * 8), "malformed"),
        "infinite shape": (raw(path / "o6.safetensors", metadata() | entry([float("inf")], [0, 8]), b"\0" * 8), "malformed"),
        "unknown dtype": (raw(path / "o7.safetensors", metadata() | entry([2], [0, 8], "Q9"), b"\0" * 8), "malformed"),
        "a gap": (raw(path / "o8.safetensors", metadata() | entry([2], [8, 16]), b"\0" * 16), "not a sound safetensors file"),
        "an overlap": (
            raw(path / "o9.safetensors", metadata() | entry([2], [0, 8]) | {"u": entry([2], [0, 8])["t"]}, b"\0" * 8),
            "not a sound safetensors file",
        ),
    }


def test_every_hostile_file_is_refused_with_a_reason(tmp_path):
    for name, (path, message) in hostile(tmp_path).items():
        with pytest.raises(BundleError) as caught:
            load_bundle(path)
        assert message in str(caught.value), f"{name}: {caught.value}"
        assert path.name in str(caught.value), name


def test_damage_that_the_header_shows_is_found_before_anything_is_loaded(tmp_path, monkeypatch):
    cases = hostile(tmp_path)
    monkeypatch.setattr("rapiddraw.core.bundles.load.load_tensors", lambda path: pytest.fail(f"{path.name} was loaded"))
    for name, (path, _) in cases.items():
        if name not in ("NaN", "infinite", "a gap", "an overlap"):
            with pytest.raises(BundleError):
                load_bundle(path)


def test_inspect_refuses_each_in_one_line(tmp_path, capsys):
    for name, (path, _) in hostile(tmp_path).items():
        assert main(["inspect", str(path)]) == 2, name
        shown = capsys.readouterr()
        assert shown.out == ""
        assert len(shown.err.strip().splitlines()) == 1, shown.err


def test_the_wrong_kind_is_named(tmp_path):
    with pytest.raises(BundleError, match="x.safetensors is a bundle of kind 'unet', but one of kind 'vae'"):
        load_bundle(good(tmp_path / "x.safetensors"), "vae")


def test_inspect_shows_a_bundle(tmp_path, capsys):
    path = good(tmp_path / "x.safetensors")
    assert main(["inspect", str(path), "--tensors"]) == 0
    shown = capsys.readouterr().out
    assert "unet" in shown
    assert "a  float32 (2, 3)" in shown
    assert "recipe test" in shown
    assert main(["inspect", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)[str(path)]["tensors"]["b"] == ["int32", 4]


@settings(max_examples=80, deadline=None)
@given(position=st.integers(0, 700), value=st.integers(0, 255), cut=st.integers(0, 40))
def test_any_damaged_byte_either_reads_or_is_refused(tmp_path_factory, position, value, cut):
    folder = tmp_path_factory.getbasetemp()
    whole = bytearray(good(folder / "fuzz-whole.safetensors").read_bytes())
    whole[position % len(whole)] = value
    path = folder / "fuzz.safetensors"
    path.write_bytes(bytes(whole[: len(whole) - cut]))
    try:
        load_bundle(path)
    except BundleError as error:
        assert "fuzz.safetensors" in str(error)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "noise.safetensors"
    path.write_bytes(content)
    with pytest.raises(BundleError):
        load_bundle(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(meta=JSON, shape=JSON, offsets=JSON)
def test_any_json_as_a_header_is_refused(tmp_path_factory, meta, shape, offsets):
    path = tmp_path_factory.getbasetemp() / "json.safetensors"
    fields = meta if isinstance(meta, dict) else {"config": meta}
    for header in (meta, {"__metadata__": meta}, metadata(**fields) | entry(shape, offsets)):
        raw(path, header, b"\0" * 8)
        with pytest.raises(BundleError):
            load_bundle(path)
