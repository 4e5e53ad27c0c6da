"""Files in torch's own format: what torch writes reads back bit for bit, everything else is refused before it costs anything."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core.checkpoint.pickled import read_pickled
from rapiddraw.core.errors import BundleError
from rapiddraw.core.upscale.rrdb import load_upscaler

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def saved(path: Path, thing: object, old: bool = False) -> Path:
    torch.save(thing, path, _use_new_zipfile_serialization=not old)
    return path


def same(one: object, other: object) -> bool:
    if isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other.detach())
    if isinstance(other, dict):
        return isinstance(one, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in other)
    if isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type]
    return one == other


@pytest.mark.parametrize("old", [False, True])
def test_what_torch_writes_reads_back(tmp_path, old):
    base = torch.arange(24.0)
    thing = {
        "params_ema": OrderedDict((str(dtype), torch.arange(6).reshape(2, 3).to(dtype)) for dtype in DTYPES),
        "views": [base[3:9], base.reshape(4, 6).t(), base[::2], base[:0], torch.tensor(3.5)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "module": torch.nn.PReLU(3).state_dict(),
        "step": 7, "rate": 1e-4, "name": "x", "none": None, "flags": (True, [1, 2]), "size": torch.Size([2, 3]),
    }  # fmt: skip
    assert same(read_pickled(saved(tmp_path / "x.pth", thing, old)), thing)


def test_newer_dtypes_and_shared_storages_read_back(tmp_path):
    shared = torch.arange(6.0)
    thing = {"a": shared, "b": shared, "c": shared.view(2, 3), "f8": torch.ones(3).to(torch.float8_e4m3fn)}
    back = read_pickled(saved(tmp_path / "x.pth", thing))
    assert same({key: back[key] for key in "abc"}, {key: thing[key] for key in "abc"}) and back["f8"].dtype == torch.float8_e4m3fn
    assert back["a"].data_ptr() == back["c"].data_ptr()


class Runs:
    def __reduce__(self):
        return (print, ("code ran",))


def packed(path: Path) -> Path:
    """A million zeros whose storage is compressed to a kilobyte."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return path


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("thing", "reason"),
    [
        (lambda: torch.zeros(1).expand(10**12), "tensor 'a', which .*more than the file holds"),
        (lambda: torch.zeros(1).expand(10**6, 10**6), "tensor 'a', which .*more than the file holds"),
        (lambda: torch.zeros(1).expand(1000), "tensor 'a', which .*more than the file holds"),
        (lambda: torch.sparse_coo_tensor([[0]], [1.0], (10**6,)), "tensor 'a', which is sparse"),
        (lambda: torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 10**6)), "tensor 'a', which is sparse"),
        (lambda: torch.zeros(2, dtype=torch.complex64), "tensor 'a', which has the type complex64"),
        (lambda: torch.zeros(2, device="meta"), "tensor 'a', which has a shape but no values"),
        (lambda: torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8), "tensor 'a', which is quantized"),
        (lambda: Runs(), r"builtins\.print|__builtin__\.print"),
        (lambda: Path("x"), "pathlib"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch warns of the kinds that are made here
def test_other_things_are_refused_by_name(tmp_path, capsys, thing, reason, old):
    path = saved(tmp_path / "bad.pth", {"a": thing()}, old)
    started = time.process_time()
    with pytest.raises(BundleError, match=reason) as caught:
        read_pickled(path)
    assert "bad.pth" in str(caught.value) and time.process_time() - started < 5
    assert "code ran" not in capsys.readouterr().out


def test_packed_storages_are_refused(tmp_path):
    with pytest.raises(BundleError, match="compressed entries"):
        read_pickled(packed(tmp_path / "packed.pth"))


def test_a_storage_that_claims_more_than_the_file_is_refused(tmp_path):
    path = saved(tmp_path / "old.pth", {"a": torch.zeros(5)}, old=True)
    data = path.read_bytes()
    assert data.count(struct.pack("<q", 5)) == 1
    path.write_bytes(data.replace(struct.pack("<q", 5), struct.pack("<q", 10**13)))
    with pytest.raises(BundleError, match="larger than the file"):
        read_pickled(path)


class Raw:
    """A pickle of the given opcodes inside an otherwise sound archive."""

    @staticmethod
    def write(path: Path, code: bytes) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", code)
            archive.writestr("x/data/0", b"\0" * 16)
        return path


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02r\xff\xff\xff\xff.",  # a memo index of four thousand million
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a text of 2^63 bytes
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of 2^31 bytes
        b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85R.",
        b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",  # a key of tuples in tuples
        b"\x80\x02)" + b"\x85" * 200_000 + b".",
        b"\x80\x02" + b"N0" * 2_000_000 + b"N.",
        b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".",
        b"",
        b".",
    ],
)
def test_hostile_pickles_are_refused_or_read_in_time(tmp_path, code):
    path = Raw.write(tmp_path / "x.pth", code)
    started = time.process_time()
    try:
        read_pickled(path)
    except BundleError as error:
        assert "x.pth" in str(error)
    assert time.process_time() - started < 5


def test_a_list_in_itself_ends(tmp_path):
    assert isinstance(read_pickled(Raw.write(tmp_path / "x.pth", b"\x80\x02]q\x00h\x00a.")), list)


numbers = st.sampled_from([0, 1, 2, 3, 5, 2**31, 2**62, 2**63, -1, 10**30])


@settings(max_examples=150, deadline=2000)
@given(size=st.lists(numbers, max_size=18), stride=st.lists(numbers, max_size=18), offset=numbers, count=numbers, old=st.booleans())
def test_any_layout_of_a_tensor_fits_its_storage_or_is_refused(tmp_path_factory, size, stride, offset, count, old):
    """torch's own pickler is given sizes, steps and places that no tensor of this file has."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            return (torch._utils._rebuild_tensor_v2, (Storage(), offset, tuple(size), tuple(stride), False, OrderedDict()))

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(thing, Storage) else None

    path = tmp_path_factory.getbasetemp() / "layout.pth"
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"a": Tensor()})
    if old:
        parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
        path.write_bytes(b"".join([*parts, buffer.getvalue(), pickle.dumps(["0"], protocol=2), struct.pack("<q", 4), b"\0" * 16]))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", buffer.getvalue())
            archive.writestr("x/data/0", b"\0" * 16)
    try:
        tensor = read_pickled(path)["a"]
    except BundleError as error:
        assert "layout.pth" in str(error)
    else:
        assert list(tensor.shape) == size and tensor.numel() * 4 <= 16 and not tensor.any()


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 60), old=st.booleans())
def test_any_damaged_byte_either_reads_or_is_refused(tmp_path_factory, position, value, cut, old):
    path = saved(tmp_path_factory.getbasetemp() / "fuzz.pth", {"params": {"a": torch.arange(6.0), "b": torch.ones(2, 2)}}, old)
    whole = bytearray(path.read_bytes())
    whole[position % len(whole)] = value
    path.write_bytes(bytes(whole[: len(whole) - cut]))
    try:
        read_pickled(path)
    except BundleError as error:
        assert "fuzz.pth" in str(error)
    with contextlib.suppress(BundleError):
        load_upscaler(path)
