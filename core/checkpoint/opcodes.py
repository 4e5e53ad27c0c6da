"""Reader of pickles that does without Python's unpickler: it builds dictionaries, lists, tuples, numbers and texts, and nothing else.

A pickle is a program for a small stack machine. The machine here knows those opcodes that data needs. A call (`REDUCE`) goes to the few
functions that the caller names; every other name is refused, so that no file can run anything.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

_VALUES = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
)  # fmt: skip
_MAKES: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MAX_STEPS = 2**20  # about thirty for each tensor


class RefusedError(Exception):
    """The file asks for something that a checkpoint of plain tensors has no need of. The message names the thing."""


class Machine:
    """Reads one pickle after another from a file.

    `find` gives the function (or plain value) behind a module's name, or raises :class:`RefusedError`; `refer` gives the thing behind a
    persistent id.
    """

    def __init__(self, file: BinaryIO, find: Callable[[str, str], Any], refer: Callable[[Any], Any]) -> None:
        self.file, self.find, self.refer = file, find, refer

    def load(self) -> Any:
        """Return the object of the next pickle. Raises :class:`RefusedError`, and `ValueError`, `IndexError`, `KeyError` or `TypeError` for
        a pickle that is damaged."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
            name = opcode.name
            if count > MAX_STEPS:
                raise RefusedError(f"a pickle of more than {MAX_STEPS} steps")
            if name == "STOP":
                return self.stack.pop()
            if name in _VALUES:
                self.stack.append(argument)
            elif name in _MAKES:
                self.stack.append(_MAKES[name]())
            elif name in _TUPLES:
                self._replace(_TUPLES[name], tuple)
            elif name not in ("PROTO", "FRAME"):
                step = getattr(self, f"_{name.lower()}", None)
                if step is None:
                    raise RefusedError(f"a step {name}, which no weights need")
                step(argument)
        raise ValueError("the pickle has no end")

    def _replace(self, count: int, make: Callable[[list[Any]], Any]) -> None:
        """Put what `make` gives for the last `count` things in their place."""
        if count > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise IndexError("the pickle takes more than it has put")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        self.stack.append(make(items))

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def _dict(self, _: Any) -> None:
        self.stack.append(_paired(self._since_mark()))

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        self._top(list).append(item)

    def _appends(self, _: Any) -> None:
        items = self._since_mark()
        self._top(list).extend(items)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict).update(_paired([key, value]))

    def _setitems(self, _: Any) -> None:
        items = self._since_mark()
        self._top(dict).update(_paired(items))

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"the pickle fills a {type(self.stack[-1]).__name__} as if it were a {kind.__name__}")
        return self.stack[-1]

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _binput(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    _put = _long_binput = _binput

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _binget(self, number: int) -> None:
        self.stack.append(self.memo[number])

    _get = _long_binget = _binget

    def _global(self, named: str) -> None:
        module, _, name = named.partition(" ")
        self.stack.append(self.find(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.find(str(module), str(name)))

    def _reduce(self, _: Any) -> None:
        given, function = self.stack.pop(), self.stack.pop()
        if not callable(function) or not isinstance(given, tuple):
            raise TypeError("the pickle calls something that is no function")
        self.stack.append(function(*given))

    def _build(self, _: Any) -> None:
        """Attributes of a thing, such as torch's `_metadata` of a state dict, are left out."""
        self.stack.pop()

    def _binpersid(self, _: Any) -> None:
        self.stack.append(self.refer(self.stack.pop()))


def _paired(items: list[Any]) -> dict[Any, Any]:
    """A dictionary of keys and values in turn. Keys are plain: tuples in tuples, a million deep, would end the process."""
    for key in items[::2]:
        if not isinstance(key, str | bytes | int | float | None):
            raise RefusedError(f"a {type(key).__name__} as a key")
    return dict(zip(items[::2], items[1::2], strict=True))
