"""Mutations of good inputs, by seed: damaged bytes, JSON trees with odd values in them, and hostile names."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD_TEXTS = (
    "", " ", "\t\n", "\x00", "a\x00b", "\ud800", "a\udfffb", "\udce9.png", "\ufeff", "\u200b", "\u202e", "e\u0301", "\ufb01", "\uff21",
    ".", "..", "../x", "../../etc/passwd", "/etc/passwd", "C:\\x", "\\\\host\\x", "~root", "x/../../y", "a" * 300, "a/" * 400, "%s%n%x",
    "%date:", "%1.x%", "%x.y.z%", "{a|", "}{", "{" * 2000, "(" * 2000, "((a:1e999))", "a:b", "*", "[output]", "x [temp]", "CON",
    "x.safetensors", "x.pth", "none", "<img>", "'; --", "${PATH}", "\x1b[2J", "\U0001f34e", "9" * 5000, "-1", "1e999", "nan", "0x10",
)  # fmt: skip
"""Strings that a widget, a file name or a field may hold."""
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**300, 0.5, -0.0, 1e308, float("inf"), float("nan"),
    [], [[]], [None], [0] * 40, [2**62] * 20, ["1", 0], ["1", -1], ["1", "0"], ["1", 2**70], [1, 2, 3, 4, 5, "*"], {}, {"": {}}, {"id": []},
    {"0": [1]}, {"inputs": None}, {"__value__": [1]},
)  # fmt: skip
"""JSON values that may stand where another kind is expected."""


def hostile_text(rng: random.Random) -> str:
    """Return one of :data:`ODD_TEXTS`, two of them joined, or random characters, lone surrogates among them."""
    kind = rng.randrange(4)
    if kind < 2:
        return rng.choice(ODD_TEXTS)
    if kind == 2:
        return rng.choice(ODD_TEXTS)[:200] + rng.choice(("", "/", ".", " ", ":")) + rng.choice(ODD_TEXTS)[:200]
    return "".join(
        chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0xD800, 0xE000)))) for _ in range(rng.randrange(40))
    )


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with some bytes changed, cut out, doubled, put in or left out at the end."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 12))):
        at = rng.randrange(len(out) + 1)
        length = min(len(out) - at, rng.choice((1, 1, 2, 4, 8, 64)))
        match rng.randrange(7):
            case 0:
                out[at : at + length] = bytes(rng.randrange(256) for _ in range(length))
            case 1:
                del out[at : at + length]
            case 2:
                out[at:at] = out[at : at + length]
            case 3:
                out[at:at] = bytes(rng.randrange(256) for _ in range(length))
            case 4:
                out[at : at + length] = rng.choice((b"\x00", b"\xff", b"9", b"-", b"\n", b"\t", b"{", b'"')) * length
            case 5:
                del out[at:]
            case _:
                if length:
                    out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def odd_tree(tree: Any, rng: random.Random) -> Any:
    """Return a copy of a JSON tree in which a few places hold an odd value, are gone, or are there twice."""
    out = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(out)
        if not places:
            return _odd(rng)
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0 | 1:
                holder[key] = _odd(rng)
            case 2:
                del holder[key]
            case 3 if isinstance(holder, dict):
                holder[hostile_text(rng)] = holder.pop(key)
            case 3:
                holder.insert(key, copy.deepcopy(holder[key]))
            case 4:
                other, place = rng.choice(places)
                try:
                    holder[key] = copy.deepcopy(other[place])
                except (KeyError, IndexError):  # it went with an earlier change
                    holder[key] = None
            case _:
                holder[key] = [holder[key]] if rng.random() < 0.5 else str(holder[key])
    return out


def _odd(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(ODD_VALUES)) if rng.random() < 0.6 else hostile_text(rng)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return (holder, key) of every value inside `tree`."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder))) if isinstance(holder, list) else []
        found += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys]
    return found


def odd_json(tree: Any, rng: random.Random) -> bytes:
    """Return JSON text of :func:`odd_tree`, now and then damaged as text, or of a depth or a number that no reader takes."""
    kind = rng.randrange(12)
    if kind == 0:
        return damaged(json.dumps(tree).encode(), rng)
    if kind == 1:
        return rng.choice(
            (b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"1e99999", b"NaN", b"", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}")
        )
    return json.dumps(odd_tree(tree, rng)).encode("utf-8", "surrogatepass")
