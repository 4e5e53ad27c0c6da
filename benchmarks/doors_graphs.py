"""Doors of the pack that graphs, names and commands come through."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from typing import Any

from .doors import Door
from .mutations import ODD_TEXTS, hostile_text, odd_json

MOST_BYTES = 20_000
"""Saved graphs up to this size are mutated; larger ones add time and no other kinds of nodes."""


class _Graphs(Door):
    """Saved graphs in one format, read, turned into API format and validated."""

    formats = "workflows"

    def prepare(self) -> None:
        from ..core.paths import pack_root

        files = sorted((pack_root() / self.formats).glob("*.json"), key=lambda path: path.stat().st_size)
        self.graphs = [json.loads(path.read_text(encoding="utf-8")) for path in files[:6] if path.stat().st_size < MOST_BYTES]
        self.made = [("deep", b"[" * 100_000), ("nothing", b""), ("a number", b"3"), ("a list", b"[]"), ("null", b"null"), ("NaN", b"NaN"),
                     ("digits", b"9" * 5000), ("not UTF-8", b"\xff\xfe{}"), ("an empty object", b"{}")]  # fmt: skip

    def mutation(self, rng: random.Random) -> bytes:
        return odd_json(rng.choice(self.graphs), rng)

    def call(self, data: bytes, label: str) -> Callable[[], Any]:
        from ..core.errors import InvalidGraphError
        from ..core.graph.formats import as_api, read_graph
        from ..core.graph.validate import validate
        from ..nodes.registry import registry

        path, nodes = self.file(data, "hostile.json"), registry()

        def read() -> None:
            problems = validate(as_api(read_graph(path), nodes), nodes)
            if problems:
                raise InvalidGraphError(problems)

        return read


class EditorGraphs(_Graphs):
    name, share = "UI graphs", 3.0

    def prepare(self) -> None:
        super().prepare()
        sub = {"id": "s", "nodes": [{"id": 1, "type": "s", "inputs": [], "outputs": []}], "links": [], "inputs": [], "outputs": []}
        holds = {"nodes": [{"id": 1, "type": "s"}], "links": [], "definitions": {"subgraphs": [sub]}}
        chain = [
            {"id": index, "type": "Reroute", "inputs": [{"name": "", "link": index}], "outputs": [{"links": [index + 1]}]}
            for index in range(3000)
        ]
        circle = {"nodes": [{"id": 1, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 1}], "outputs": [{"links": [1]}]}],
                  "links": [[1, 1, 0, 1, 0, "*"]]}  # fmt: skip
        saving = [
            {"id": index, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": index}]} for index in range(4000)
        ]
        many = {"nodes": saving, "links": []}
        links = [[index, index, 0, index + 1, 0, "*"] for index in range(3000)]
        cases = {
            "a subgraph in itself": holds,
            "a circle of reroutes": circle,
            "4000 dangling links": many,
            "3000 reroutes": {"nodes": chain, "links": links},
        }
        self.made += [(label, json.dumps(graph).encode()) for label, graph in cases.items()]


class ApiGraphs(_Graphs):
    name, share, formats = "API graphs", 3.0, "workflows/api"

    def prepare(self) -> None:
        super().prepare()
        ring = {str(index): {"class_type": "ImageInvert", "inputs": {"image": [str((index + 1) % 2000), 0]}} for index in range(2000)}
        many = {str(index): {"class_type": "SaveImage", "inputs": {"images": ["gone", 0], "filename_prefix": "x"}} for index in range(4000)}
        self.made += [("a ring of 2000", json.dumps(ring).encode()), ("4000 missing links", json.dumps(many).encode())]


class Names(Door):
    """Names and texts of widgets: lone surrogates, traversal, odd characters."""

    name, share = "names and texts", 3.0

    def prepare(self) -> None:
        self.takers = list(_takers().items())
        self.made = [(f"{taker}({ascii(text)[:60]})", (taker, text)) for taker, _ in self.takers for text in ODD_TEXTS]

    def mutation(self, rng: random.Random) -> tuple[str, str]:
        return rng.choice(self.takers)[0], hostile_text(rng)

    def attempt(self, index: int, rng: random.Random) -> tuple[str, Callable[[], Any]]:
        taker, text = self.made[index][1] if index < len(self.made) else self.mutation(rng)
        return f"{taker}({ascii(text)[:60]})", self.call((taker, text), taker)

    def call(self, data: tuple[str, str], label: str) -> Callable[[], Any]:
        taker, text = dict(self.takers)[data[0]], data[1]
        return lambda: taker(text)


def _takers() -> dict[str, Callable[[str], Any]]:
    """Return the functions that take a name or a text of a widget, by name."""
    from ..core import paths
    from ..core.bundles.find import resolve_bundle
    from ..core.checkpoint.find import resolve_checkpoint
    from ..core.data.places import new_folder, resolve_folder
    from ..core.graph.prompt_text import resolve_choices, resolve_tokens
    from ..core.graph.stock.image_files import LoadImage, save_path
    from ..core.graph.validate import validate
    from ..core.host.embedded.prompt import parse_weights
    from ..core.knowledge.choices import load_graph
    from ..core.text.causal import resolve_model
    from ..core.text.prompts import generate_prompts
    from ..core.text.templates import apply_template
    from ..core.text.tokenizer import normalise
    from ..core.upscale.find import resolve_upscaler
    from ..nodes.registry import registry

    nodes = registry()
    widgets = [
        (node_id, name)
        for node_id, node in nodes.items()
        for group in ("required", "optional")
        for name, spec in node.INPUT_TYPES().get(group, {}).items()
        if spec[0] == "STRING" or isinstance(spec[0], list | tuple) or spec[0] == "COMBO"
    ]
    chooser = random.Random("widgets")

    def widget(text: str) -> Any:
        node_id, name = chooser.choice(widgets)
        return validate({"1": {"class_type": node_id, "inputs": {name: text}}}, nodes, ["1"])

    def picture(text: str) -> Any:
        return LoadImage.VALIDATE_INPUTS(text), LoadImage().load_image(text)

    return {
        "resolve_bundle": resolve_bundle, "resolve_upscaler": resolve_upscaler, "resolve_checkpoint": resolve_checkpoint,
        "resolve_model": resolve_model, "load_graph": load_graph, "made_bundle_path": paths.made_bundle_path, "LoadImage": picture,
        "resolve_folder": resolve_folder, "new_folder": new_folder, "save_path": lambda text: save_path(text, paths.output_dir(), 8, 8),
        "safe_join": lambda text: paths.safe_join(paths.input_dir(), text), "parse_weights": parse_weights, "normalise": normalise,
        "apply_template": lambda text: apply_template(text, "pear"), "resolve_choices": lambda text: resolve_choices(text, 1),
        "resolve_tokens": lambda text: resolve_tokens(text, lambda node, widget: "x"), "a widget": widget,
        "generate_prompts": lambda text: generate_prompts(text, "en", 2, 0),
    }  # fmt: skip


class Commands(Door):
    """Command lines with hostile files, folders and values. `main` is the command line's own function, which stands on a higher floor."""

    name, share = "commands", 0.6
    main: Callable[[list[str]], int]

    def prepare(self) -> None:
        self.graph = {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        }
        self.made = [
            (" ".join(words), words)
            for words in (["inspect"], ["run"], ["bench"], ["data"], ["train", "novel"], ["nodes", "\ud800"], ["\ud800"])
        ]

    def mutation(self, rng: random.Random) -> list[str]:
        text = hostile_text(rng).replace("\0", "")
        if rng.random() < 0.7:
            self.file(odd_json(self.graph, rng), "hostile.json")
        file, out = str(self.folder / "hostile.json"), str(self.folder / "out")
        given = rng.choice((file, file, text, str(self.folder), str(self.folder / "gone.json"), "/dev/null"))
        # A user may write wherever the system lets him: what is written here must stay in this folder.
        written = text if text.strip(" .") and not text.startswith(("/", "~")) and ".." not in text else out
        number = rng.choice((text, "-1", "0", "1e999", "nan", "9" * 400, str(2**70), ""))
        lines = [
            ["inspect", given], ["inspect", given, "--json", "--tensors"], ["validate", given], ["validate", given, "--json"],
            ["convert", given, "--to", rng.choice(("ui", "api", text)), "--out", rng.choice((f"{out}.json", written, "/proc/x"))],
            ["run", given, "--output", rng.choice((out, written, "/proc/x")), "--input", rng.choice((str(self.folder), text))],
            ["run", given, "--output", out, "--seed", number], ["run", given, "--output", out, "--set", text], ["nodes", text],
            ["data", "check", given], ["data", "filter", str(self.folder / "gone"), "--min-side", number], ["profile", given],
            ["data", "orchard", "--count", number, "--size", "64", "--out", "/proc/x", "--split", text],
            ["train", rng.choice(("vae", "unet", "kg")), "--settings", "--set", text],
            ["train", rng.choice(("vae", "unet")), "--data", str(self.folder / "gone"), "--set", f"lr={number}", "--out", f"{out}.x"],
            ["bench", text], ["bench", "hosts", "--only", text], ["bench", "all", "--dry-run", "--skip", text],
        ]  # fmt: skip
        line = rng.choice(lines)
        if rng.random() < 0.1:
            line.insert(rng.randrange(len(line)), rng.choice((text, "--" + "".join(rng.choices(string.ascii_letters, k=4)))))
        return line

    def call(self, data: list[str], label: str) -> Callable[[], Any]:
        import contextlib
        import io

        from ..core.errors import InputError

        main = type(self).main

        def command() -> None:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
                code = main(data)
            if code:
                raise InputError(said.getvalue()[-200:])

        return command

    def attempt(self, index: int, rng: random.Random) -> tuple[str, Callable[[], Any]]:
        words = self.made[index][1] if index < len(self.made) else self.mutation(rng)
        label = " ".join(ascii(word.replace(str(self.folder), "FOLDER"))[1:-1][:60] for word in words)
        return label, self.call(words, "")


DOORS = (EditorGraphs, ApiGraphs, Names, Commands)
