"""Results of jobs, on disk or in an S3-compatible store. Each attempt has a folder of its own, so that attempts never mix."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol

from ..core.errors import InputError, MissingPackageError
from ..core.paths import safe_join


class Storage(Protocol):
    """Where the files of jobs are kept, by a key `job/attempt/type/name`."""

    def put(self, key: str, source: Path | bytes) -> None:
        """Keep a file, given by its path or its bytes."""
        ...

    def get(self, key: str) -> Path | bytes | None:
        """Return a file, or its path where it lies on this machine; None where there is none."""
        ...

    def remove(self, prefix: str) -> None:
        """Delete all files of a job."""
        ...


class Disk:
    """A folder. Every key is joined safely: none leads outside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, source: Path | bytes) -> None:
        """See :meth:`Storage.put`. A file of the same disk is linked, not copied."""
        path = safe_join(self._folder, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if isinstance(source, bytes):
            path.write_bytes(source)
            return
        try:
            os.link(source, path)
        except OSError:
            shutil.copyfile(source, path)

    def get(self, key: str) -> Path | None:
        """See :meth:`Storage.get`."""
        try:
            path = safe_join(self._folder, key)
        except InputError:
            return None
        return path if path.is_file() else None

    def remove(self, prefix: str) -> None:
        """See :meth:`Storage.remove`."""
        shutil.rmtree(safe_join(self._folder, prefix), ignore_errors=True)


class S3:
    """A bucket of an S3-compatible store, through boto3, whose environment variables say where it is and who asks
    (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` ...)."""

    def __init__(self, url: str) -> None:
        try:
            import boto3
        except ImportError as error:
            raise MissingPackageError("results in s3:// need the package boto3: pip install boto3") from error
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = prefix.strip("/")
        self._client = boto3.client("s3")

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def put(self, key: str, source: Path | bytes) -> None:
        """See :meth:`Storage.put`."""
        body = source if isinstance(source, bytes) else source.read_bytes()
        self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=body)

    def get(self, key: str) -> bytes | None:
        """See :meth:`Storage.get`."""
        try:
            return self._client.get_object(Bucket=self._bucket, Key=self._key(key))["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None

    def remove(self, prefix: str) -> None:
        """See :meth:`Storage.remove`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._key(prefix) + "/")
        for page in pages:
            for entry in page.get("Contents", ()):
                self._client.delete_object(Bucket=self._bucket, Key=entry["Key"])


def storage(results: str, data: Path) -> Storage:
    """Return the storage of `--results`: `s3://bucket/prefix`, a folder, or `results` in the data folder where it is empty."""
    if results.startswith("s3://"):
        return S3(results)
    return Disk(Path(results) if results else data / "results")
