"""Weight files in torch's own format (`.pth`, `.pt`), read without running code in them, each size checked before memory is used.

A `.pth` is a pickle and the storages it speaks of. The pickle is read by a machine that builds nothing but plain data and records of
tensors (:mod:`.opcodes`). A tensor is made only where its storage really holds all of its values: a file of a kilobyte
that speaks of a terabyte, through repeated values, packed storages or sparse indices, is refused before anything is allocated.

Both layouts are read: the zip archive of today's torch, and the row of pickles that torch wrote until version 1.5.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from ..errors import BundleError
from .opcodes import Machine, RefusedError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_PICKLE_BYTES = 64 * 2**20
MAX_RANK, MAX_SHARING = 16, 8
"""`MAX_SHARING`: how many times the file's size all tensors may have together, since several may show the same storage."""
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}  # fmt: skip
_OTHER_TENSORS = {
    "_rebuild_sparse_tensor": "is sparse",
    "_rebuild_sparse_csr_tensor": "is sparse",
    "_rebuild_qtensor": "is quantized (qint8 or another type)",
    "_rebuild_meta_tensor_no_storage": "has a shape but no values (it was saved from the device meta)",
    "_rebuild_nested_tensor": "is nested",
    "_rebuild_wrapper_subclass": "is of a special class",
}
_OTHER_NUMBERS = {
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
}  # fmt: skip


@dataclass(frozen=True)
class _Storage:
    """A storage as the pickle speaks of it: its key in the file, the type of its values, and how many it claims to hold."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class _Record:
    """A tensor as the pickle speaks of it."""

    storage: _Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Odd:
    """A tensor of another kind. `what` says of which."""

    what: str


def read_pickled(path: Path) -> Any:
    """Return the object in a `.pth`: dictionaries, lists and numbers, with tensors on the CPU.

    Raises :class:`BundleError` for a file that is missing, damaged, or holds anything else: other objects, code, tensors that are sparse,
    complex, quantized or without values, and tensors larger than their storage.
    """
    if not path.is_file():
        raise BundleError(f"no such file: {path}")
    try:
        with path.open("rb") as file:
            load = _load_archive if file.read(4) == b"PK\x03\x04" else _load_row
            file.seek(0)
            return load(file, path.stat().st_size)
    except RefusedError as error:
        raise BundleError(f"{path.name} is not a checkpoint of plain tensors and is refused: it holds {error}") from error
    except Exception as error:  # a damaged pickle or archive raises many kinds, none of which names the file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BundleError(f"{path.name} is not a checkpoint of plain tensors and is refused ({reason}); copy it again") from error


def _load_archive(file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        for entry in entries.values():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                raise RefusedError("compressed entries, which torch never writes")
        name = next((name for name in entries if name.endswith("/data.pkl")), None)
        if name is None:
            raise RefusedError("no pickle named data.pkl")
        if entries[name].file_size > MAX_PICKLE_BYTES:
            raise RefusedError(f"a pickle of more than {MAX_PICKLE_BYTES} bytes")
        folder = name.removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise RefusedError("numbers in the byte order of another machine")
        found = _Pickles(io.BytesIO(archive.read(name))).load()
        return _Tensors(size, lambda storage: archive.read(f"{folder}data/{storage.key}")).fill(found)


def _load_row(file: BinaryIO, size: int) -> Any:
    """The older layout: a magic number, a version, facts of the machine, the object, the keys of the storages, then each storage."""
    data = io.BytesIO(file.read(min(size, MAX_PICKLE_BYTES)))  # pickles alone; the storages behind them are read from the file
    pickles = _Pickles(data)
    if pickles.load() != _LEGACY_MAGIC or pickles.load() != _LEGACY_VERSION:
        raise RefusedError("no weights of torch")
    pickles.load()
    found, keys = pickles.load(), pickles.load()
    file.seek(data.tell())
    storages: dict[str, bytes] = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        nbytes = count * _dtype(pickles.storages[str(key)].dtype).itemsize
        if nbytes > size:
            raise RefusedError("a storage that is larger than the file")
        storages[str(key)] = file.read(nbytes)
    return _Tensors(size, lambda storage: storages[storage.key]).fill(found)


class _Pickles:
    """The pickles of a file. `storages` are those that were spoken of so far."""

    def __init__(self, file: BinaryIO) -> None:
        self.storages: dict[str, _Storage] = {}
        self.load = Machine(file, _find, self._refer).load

    def _refer(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, str) or not isinstance(count, int):
            raise RefusedError("a reference to something other than a storage")
        storage = _Storage(str(key), dtype, count)
        return self.storages.setdefault(storage.key, storage)


def _find(module: str, name: str) -> Any:
    """What stands behind a name in a pickle: a function that makes a record, or the name of a type of numbers."""
    known: Mapping[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): lambda *given: {} if not given else _refuse("a dictionary made of another"),
        ("torch._utils", "_rebuild_tensor"): lambda storage, offset, size, stride: _record(storage, offset, size, stride),
        ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, size, stride, *_: _record(storage, offset, size, stride),
        ("torch._utils", "_rebuild_tensor_v3"): lambda storage, offset, size, stride, gradient, hooks, dtype, *_: _record(
            storage, offset, size, stride, dtype
        ),
        ("torch._utils", "_rebuild_parameter"): lambda record, *_: record,
        ("torch._utils", "_rebuild_parameter_with_state"): lambda record, *_: record,
        ("torch.serialization", "_get_layout"): lambda layout: layout,
        ("torch", "Size"): lambda size: size if isinstance(size, tuple) else _refuse("a size that is no tuple"),
    }
    if (module, name) in known:
        return known[module, name]
    if module == "torch._utils" and name in _OTHER_TENSORS:
        return lambda *_: _Odd(_OTHER_TENSORS[name])
    if module in ("torch", "torch.storage") and (name in _STORAGES or name in _OTHER_NUMBERS):
        return _STORAGES.get(name) or _OTHER_NUMBERS[name]
    if module == "torch" and (name == "per_tensor_affine" or _is_dtype(name)):
        return name
    raise RefusedError(f"{module}.{name}"[:100])


@dataclass
class _Tensors:
    """Makes tensors of records. `read` gives the bytes of a storage; `size` is that of the whole file."""

    size: int
    read: Callable[[_Storage], bytes]

    def __post_init__(self) -> None:
        self.opened: dict[str, Tensor] = {}
        self.made: dict[int, Tensor] = {}
        self.total = self.stored = 0

    def fill(self, found: Any) -> Any:
        """Return `found` with a tensor in the place of each record, without recursion."""
        top = [found]
        waiting: list[Any] = [top]
        seen: set[int] = set()
        while waiting:
            held = waiting.pop()
            if id(held) in seen:
                continue
            seen.add(id(held))
            for place, value in list(held.items() if isinstance(held, dict) else enumerate(held)):
                if isinstance(value, tuple) and any(isinstance(item, _Record | _Odd | dict | list | tuple) for item in value):
                    value = held[place] = list(value)
                if isinstance(value, _Record | _Odd):
                    held[place] = self._tensor(value, str(place)[:120])
                elif isinstance(value, dict | list):
                    waiting.append(value)
        return top[0]

    def _tensor(self, record: _Record | _Odd, name: str) -> Tensor:
        if isinstance(record, _Odd):
            raise RefusedError(f"tensor {name!r}, which {record.what}")
        if id(record) not in self.made:
            self.made[id(record)] = self._make(record, name)
        return self.made[id(record)]

    def _make(self, record: _Record, name: str) -> Tensor:
        import torch

        if record.dtype in _OTHER_NUMBERS.values():
            raise RefusedError(f"tensor {name!r}, which has the type {record.dtype}")
        width, numbers = _dtype(record.dtype).itemsize, 1
        for side in record.size:
            numbers *= side
        self.total += numbers * width
        if self.total > MAX_SHARING * self.size:
            raise RefusedError(f"tensor {name!r}, which with those before claims {self.total:,} bytes, many times more than the file holds")
        storage = self._storage(record.storage)
        reach = record.offset + 1 + sum((side - 1) * step for side, step in zip(record.size, record.stride, strict=True))
        if numbers * width > len(storage) or (numbers and reach * width > len(storage)):
            raise RefusedError(f"tensor {name!r}, which claims {numbers:,} values, more than the file holds")
        if not numbers:
            return torch.zeros(record.size, dtype=_dtype(record.dtype))
        values = storage[: len(storage) // width * width].view(_dtype(record.dtype))
        return values.as_strided(record.size, record.stride, record.offset)

    def _storage(self, storage: _Storage) -> Tensor:
        import torch

        if storage.key not in self.opened:
            data = bytearray(self.read(storage))
            self.stored += len(data)
            if self.stored > self.size:
                raise RefusedError("storages that lie in one another")
            self.opened[storage.key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        return self.opened[storage.key]


def _record(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> _Record:
    """A record whose numbers are checked. `dtype` is that of the storage unless given."""
    if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        _refuse("a tensor without a storage, a size or steps")
    if len(size) != len(stride) or len(size) > MAX_RANK:
        _refuse(f"a tensor of more than {MAX_RANK} dimensions, or with another number of steps")
    for number in (offset, *size, *stride):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**63:
            _refuse("a tensor whose size, steps or place are no numbers from 0 to 2^63")
    return _Record(storage, storage.dtype if dtype is None else str(dtype), offset, size, stride)


def _refuse(what: str) -> NoReturn:
    raise RefusedError(what)


def _is_dtype(name: str) -> bool:
    import torch

    return isinstance(getattr(torch, name, None), torch.dtype)


def _dtype(name: str) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, name)
    return found
