"""Doors of the pack that data comes through: knowledge files, pictures, dataset folders."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from typing import Any

from .doors import Door
from .mutations import damaged, hostile_text, odd_json


class KnowledgeFiles(Door):
    """Knowledge graphs as .tsv and .jsonl."""

    name, share = "knowledge files", 3.0

    def prepare(self) -> None:
        self.rows = [
            ["pear", "is a", "fruit"],
            ["pear", "alias@en", "red pear"],
            ["fig", "grows on", "tree"],
            ["fig", "alias@zh", "\u65e0"],
        ]
        self.objects = [{"head": "pear", "relation": "is a", "tail": "fruit"}, {"entity": "pear", "aliases": {"en": ["red pear"]}},
                        {"head": "fig", "relation": "grows on", "tail": "tree", "aliases": {"zh": ["\u65e0"]}}]  # fmt: skip
        lines = [
            "a\tr\tb",
            "x\t alias@en\ty",
            "a\tr\tb\n\ufeffa\tr\tc",
            "a\x00\tr\tb",
            "\x0ba\tr\tb",
            "a" * 9000 + "\tr\tb",
            "a\tr",
            "\t\t",
        ]
        self.made = [(f"line {index}", (".tsv", line.encode())) for index, line in enumerate(lines)]
        self.made += [("not UTF-8", (".tsv", b"\xff\xfe\tr\tb")), ("a circle", (".tsv", b"a\tr\ta\n" * 2000)), ("nothing", (".jsonl", b""))]
        self.made += [("deep", (".jsonl", b"[" * 100_000)), ("digits", (".jsonl", b'{"head": ' + b"9" * 5000 + b"}"))]
        self.made += [("a hub", (".tsv", b"".join(b"hub\tr\t%d\n" % index for index in range(20_000))))]

    def mutation(self, rng: random.Random) -> tuple[str, bytes]:
        if rng.random() < 0.5:
            rows = [[hostile_text(rng) if rng.random() < 0.15 else cell for cell in row] for row in self.rows]
            text = "\n".join("\t".join(row) for row in rows).encode("utf-8", "surrogatepass")
            return ".tsv", damaged(text, rng) if rng.random() < 0.5 else text
        lines = [odd_json(row, rng) if rng.random() < 0.5 else json.dumps(row).encode() for row in self.objects]
        return ".jsonl", b"\n".join(lines)

    def call(self, data: tuple[str, bytes], label: str) -> Callable[[], Any]:
        from ..core.knowledge.choices import describe_graph
        from ..core.knowledge.triples import load_triples

        path = self.file(data[1], f"hostile{data[0]}")
        return lambda: describe_graph(load_triples(path))


class Pictures(Door):
    """Pictures that LoadImage opens, and graphs inside PNG text."""

    name, share = "pictures and PNG text", 2.0

    def prepare(self) -> None:
        import numpy as np
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))
        info = PngInfo()
        graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}}}
        info.add_text("prompt", json.dumps(graph))
        info.add_itxt("workflow", json.dumps({"nodes": [], "links": []}), zip=True)
        self.good = []
        for kind, more in (
            ("PNG", {"pnginfo": info}),
            ("JPEG", {}),
            ("WEBP", {}),
            ("BMP", {}),
            ("TIFF", {}),
            ("GIF", {"save_all": True, "append_images": [image] * 3}),
        ):
            buffer = io.BytesIO()
            image.save(buffer, kind, **more)
            self.good.append((kind.lower(), buffer.getvalue()))

        def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
            first = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            parts = [
                struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in (first, *chunks)
            ]
            return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

        bomb, end = zlib.compress(b"\0" * 60_000_000, 9), (b"IEND", b"")
        texts = {
            "text bomb": (b"zTXt", b"prompt\0\0" + bomb), "text without end": (b"tEXt", b"prompt"), "no key": (b"iTXt", b"\0"),
            "itxt bomb": (b"iTXt", b"workflow\0\1\0\0\0" + bomb), "deep text": (b"tEXt", b"prompt\0" + b"[" * 100_000),
        }  # fmt: skip
        bitmap = struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
        gif = b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;"
        self.made = [(label, ("png", png(8, 8, chunk, end))) for label, chunk in texts.items()]
        self.made += [("png of 60000 x 60000", ("png", png(60_000, 60_000, (b"IDAT", bomb), end)))]
        self.made += [("png of 2**31", ("png", png(2**31 - 1, 2**31 - 1, end))), ("gif of 65535 x 65535", ("gif", gif))]
        self.made += [("bmp of 2**30", ("bmp", b"BM" + bitmap)), ("nothing", ("png", b"")), ("text", ("jpeg", b"hello"))]

    def mutation(self, rng: random.Random) -> tuple[str, bytes]:
        kind, data = rng.choice(self.good) if rng.random() < 0.6 else self.good[0]
        return kind, damaged(data, rng)

    def call(self, data: tuple[str, bytes], label: str) -> Callable[[], Any]:
        from ..core.errors import RapidDrawError
        from ..core.graph.formats import read_graph
        from ..core.graph.stock.image_files import read_image

        path = self.file(data[1], f"hostile.{data[0]}")

        def both() -> None:
            refused: RapidDrawError | None = None
            for read in (read_graph, read_image) if data[0] == "png" else (read_image,):
                try:
                    read(path)
                except RapidDrawError as error:
                    refused = error
            if refused is not None:
                raise refused

        return both


class DatasetFolders(Door):
    """Dataset folders: captions, names, pictures and maps."""

    name, share = "dataset folders", 1.5

    def prepare(self) -> None:
        import numpy as np
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(buffer, "PNG")
        self.picture = buffer.getvalue()
        self.rows = [{"file_name": "a.png", "text": "a pear"}, {"file_name": "b.png", "captions": [{"text": "a fig", "language": "en"}]}]
        cases: dict[str, dict[str, bytes]] = {
            "nothing": {}, "text alone": {"a.txt": b"a"}, "an index alone": {"captions.jsonl": b'{"file_name": "gone.png"}\n'},
            "deep": {"a.png": self.picture, "captions.jsonl": b"[" * 100_000}, "an empty picture": {"a.png": b"", "a.txt": b"a"},
            "not UTF-8": {"a.png": self.picture, "a.txt": b"\xff\xfe\xfa"},
            "outside": {"captions.jsonl": b'{"file_name": "../../x.png"}\n'},
        }  # fmt: skip
        self.made = list(cases.items())

    def mutation(self, rng: random.Random) -> dict[str, bytes]:
        files = {"a.png": self.picture, "b.png": self.picture}
        if rng.random() < 0.4:
            files["b.png"] = damaged(self.picture, rng)
        if rng.random() < 0.7:
            lines = [odd_json(row, rng) if rng.random() < 0.6 else json.dumps(row).encode() for row in self.rows]
            files["captions.jsonl"] = b"\n".join(lines)
        else:
            files |= {"a.txt": hostile_text(rng).encode("utf-8", "surrogatepass"), "b.TXT": damaged(b"a fig\na tree\n", rng)}
        return files

    def call(self, data: dict[str, bytes], label: str) -> Callable[[], Any]:
        from ..core.data.folder import ImageFolder, check_folder

        root = self.folder / "set"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name, content in data.items():
            (root / name).write_bytes(content)

        def read() -> None:
            check_folder(root, captions=False)
            folder = ImageFolder(root, 16)
            for index in range(len(folder)):
                folder.image(index)
                folder.caption(index)

        return read


DOORS = (KnowledgeFiles, Pictures, DatasetFolders)
