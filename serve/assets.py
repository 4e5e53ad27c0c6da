"""Assets of Comfy API v2: uploaded pictures known by an id and the blake3 hash of their bytes, each owner's for itself."""

from __future__ import annotations

import mimetypes
import time
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.errors import InputError
from .catalog import Refused
from .service import Service
from .uploads import keep_picture

REFERENCE = "core/ASSET"


@dataclass(frozen=True)
class Asset:
    """One row of the table of assets. `path` lies in the owner's folder of uploads."""

    id: str
    owner: str
    name: str
    hash: str
    type: str
    size: int
    path: str
    created: float


class Assets:
    """The assets of a service."""

    def __init__(self, service: Service) -> None:
        self._service, self._store = service, service.store

    def get(self, asset_id: str, owner: str) -> Asset | None:
        """Return an owner's asset; None where there is none."""
        return self._one("id = ? AND owner = ?", asset_id, owner)

    def by_hash(self, digest: str, owner: str) -> Asset | None:
        """Return an owner's asset with these bytes."""
        return self._one("hash = ? AND owner = ?", digest, owner)

    def file(self, asset: Asset) -> Path:
        """Return the file of an asset."""
        return self._service.uploads(asset.owner) / asset.path

    def add(self, owner: str, name: str, data: bytes, expected: str = "") -> tuple[Asset, bool]:
        """Keep a picture and return (asset, whether its bytes are new). Raises :class:`Refused` where its hash is not `expected`, and as
        :func:`.uploads.keep_picture` does."""
        from blake3 import blake3

        digest = f"blake3:{blake3(data).hexdigest()}"
        if expected and expected != digest:
            raise Refused(f"the bytes have the hash {digest}, not {expected[:80]}", "hash_mismatch")
        known = self.by_hash(digest, owner)
        if known is not None:
            return self.again(known, name), False
        asset_id = str(uuid.uuid4())
        path = keep_picture(self._service.uploads(owner), f"assets/{asset_id}{PurePosixPath(name).suffix.lower()}", data)
        return self._insert(Asset(asset_id, owner, name[:200], digest, _type(name), len(data), path, time.time())), True

    def again(self, known: Asset, name: str) -> Asset:
        """Return a new asset with the bytes of a known one."""
        return self._insert(
            Asset(str(uuid.uuid4()), known.owner, name[:200] or known.name, known.hash, known.type, known.size, known.path, time.time())
        )

    def remove(self, asset: Asset) -> None:
        """Delete an asset, and its bytes where no other asset has them."""
        with self._store.changing() as db:
            db.execute("DELETE FROM assets WHERE id = ? AND owner = ?", (asset.id, asset.owner))
        if self.by_hash(asset.hash, asset.owner) is None:
            self.file(asset).unlink(missing_ok=True)

    def resolve(self, value: Any, owner: str) -> Any:
        """Return a workflow in which each `core/ASSET` reference is the name of the owner's file. Raises :class:`Refused` where there is
        no such asset."""
        if isinstance(value, dict) and value.get("__type") == REFERENCE:
            info = value.get("info")
            asset_id = str(info.get("id", "")) if isinstance(info, dict) else ""
            found = self.get(asset_id, owner)
            if found is None:
                raise Refused(f"there is no asset {asset_id[:80]!r}", "missing_asset")
            return found.path
        if isinstance(value, dict):
            return {key: self.resolve(inner, owner) for key, inner in value.items()}
        return [self.resolve(inner, owner) for inner in value] if isinstance(value, list) else value

    def _insert(self, asset: Asset) -> Asset:
        with self._store.changing() as db:
            db.execute("INSERT INTO assets VALUES (?,?,?,?,?,?,?,?)", tuple(vars(asset).values()))
        return asset

    def _one(self, where: str, *values: str) -> Asset | None:
        rows = self._store.rows(f"SELECT * FROM assets WHERE {where} LIMIT 1", *values)  # noqa: S608 - our own words
        return Asset(**dict(rows[0])) if rows else None


def _type(name: str) -> str:
    kind = mimetypes.guess_type(name)[0] or ""
    if not kind.startswith("image/"):
        raise InputError(f"{name[:60]!r} is no name of a picture; assets are pictures here")
    return kind
