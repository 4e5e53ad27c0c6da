"""API keys: shown once, kept as SHA-256 hashes, compared in constant time.

A key is 32 random bytes, so that a plain hash is enough: there is nothing to guess. The file holds `{"NAME": {"hash", "priority"}}`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..core.checks import real_number
from ..core.errors import InputError
from ..core.files import replacing

PREFIX = "rd-"
_SHORTEST = 20


@dataclass(frozen=True)
class Client:
    """Who asks: the name of the key, and the highest priority that its jobs may have."""

    name: str
    priority: float = 0.0


class Keys:
    """The keys of a service: those of its key file, and those given at the start (from the environment)."""

    def __init__(self, path: Path, given: Iterable[str] = ()) -> None:
        self._path = path
        self._hashes: list[tuple[str, Client]] = []
        for name, entry in _read(path).items():
            self._hashes.append((entry["hash"], Client(name, float(entry.get("priority", 0.0)))))
        for number, key in enumerate(filter(None, (key.strip() for key in given)), 1):
            if len(key) < _SHORTEST:
                raise InputError(f"key {number} of RAPIDDRAW_API_KEYS has {len(key)} characters; give {_SHORTEST} or more random ones")
            self._hashes.append((_hash(key), Client(f"environment-{number}")))

    def __len__(self) -> int:
        return len(self._hashes)

    def client(self, key: str) -> Client | None:
        """Return whose key this is; None for no key of this service. Takes as long for a wrong key as for a right one."""
        given, found = _hash(key), None
        for known, client in self._hashes:
            if hmac.compare_digest(given, known):
                found = client
        return found


def new_key(path: Path, name: str, priority: float = 0.0) -> str:
    """Return a new key for `name` and keep its hash in the file; an earlier key of that name stops working.

    Raises :class:`InputError` for a name of other characters than letters, digits, `-` and `_`.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) or name == "local" or name.startswith("environment-"):
        raise InputError(f"{name[:60]!r} is no name for a key; use 1 to 40 letters, digits, '-' and '_'")
    entries, key = _read(path), PREFIX + secrets.token_urlsafe(32)
    entries[name] = {"hash": _hash(key), "priority": real_number("priority", priority, -1000, 1000)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        os.chmod(temporary, 0o600)
    return key


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if all(re.fullmatch("[0-9a-f]{64}", entry["hash"]) for entry in entries.values()):
            return entries
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(f"{path} is no file of keys; remove it and make new keys with --new-key NAME")
