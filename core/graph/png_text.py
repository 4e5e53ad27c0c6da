"""Text chunks of PNG files, read without their pixels.

A picture may be cut short, or carry more text than an image library is willing to unpack, and still hold a whole graph. So the chunks are
read here, one by one, up to a stated size, and reading ends quietly where the file does.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Container
from pathlib import Path
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT_BYTES = 64 * 2**20


class DamagedPictureError(ValueError):
    """A file begins like a PNG and does not go on like one."""


class TextTooLargeError(ValueError):
    """A text chunk holds more than the allowed number of bytes."""


def read_text_chunks(path: Path, keys: Container[str], limit: int = MAX_TEXT_BYTES) -> dict[str, str]:
    """Return the texts (tEXt, zTXt, iTXt) of a PNG file whose keyword is in `keys`; the last one of each keyword.

    A chunk that is damaged or not whole is left out. Raises :class:`TextTooLargeError` for a wanted text of more than `limit` bytes,
    :class:`DamagedPictureError` where not even a header follows the signature, and `OSError` where the file cannot be read.
    """
    found: dict[str, str] = {}
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return found
        head = file.read(8)
        if head[4:] != b"IHDR":
            raise DamagedPictureError("it does not begin with a header")
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
        while (kind := _next_chunk(file)) is not None:
            name, length = kind
            if name not in (b"tEXt", b"zTXt", b"iTXt"):
                file.seek(length + 4, 1)  # its data and its checksum
                continue
            if length > limit + 1000:
                raise TextTooLargeError(f"a text of {length} bytes")
            data = file.read(length)
            text = _text(name, data, keys, limit) if len(data) == length else None
            if text is not None:
                found[text[0]] = text[1]
            file.seek(4, 1)
    return found


def _next_chunk(file: BinaryIO) -> tuple[bytes, int] | None:
    head = file.read(8)
    if len(head) < 8:
        return None
    length, name = struct.unpack(">I4s", head)
    return None if name == b"IEND" else (name, length)


def _text(name: bytes, data: bytes, keys: Container[str], limit: int) -> tuple[str, str] | None:
    """(keyword, text) of one chunk, `None` for another keyword or a damaged chunk."""
    raw_key, _, rest = data.partition(b"\0")
    key = raw_key.decode("latin-1")
    if key not in keys:
        return None
    try:
        if name == b"tEXt":
            return key, rest.decode("latin-1")
        if name == b"zTXt":
            return key, _unpacked(rest[1:], limit).decode("latin-1")
        is_packed, body = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[2]  # language and translated keyword come first
        return key, (_unpacked(body, limit) if is_packed else body).decode("utf-8")
    except (UnicodeDecodeError, IndexError, zlib.error):
        return None


def _unpacked(data: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(data, limit + 1)
    if len(text) > limit:
        raise TextTooLargeError(f"a text of more than {limit} bytes")
    return text
