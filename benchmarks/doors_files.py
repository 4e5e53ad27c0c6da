"""Doors of the pack that weight files come through: bundles, pickled upscalers, kept latents, folders of language models."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
from collections.abc import Callable
from typing import Any

from .doors import Door
from .mutations import damaged, hostile_text, odd_json, odd_tree


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with any header, which may be a lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + data


class BundleHeaders(Door):
    """Bundles (`.safetensors` with our metadata) with damaged headers and bytes."""

    name, share = "bundle headers", 4.0

    def prepare(self) -> None:
        import torch

        from ..core.knowledge.graph import build_graph, save_knowledge

        graph = build_graph([("pear", "is", "fruit"), ("fig", "is", "fruit")], [("pear", "en", "pear")])
        self.good = save_knowledge(self.folder / "good.safetensors", graph.with_embeddings(torch.ones(len(graph.entities), 4))).read_bytes()
        (length,) = struct.unpack("<Q", self.good[:8])
        self.header, self.data = json.loads(self.good[8 : 8 + length]), self.good[8 + length :]
        one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        shapes = [[2**62, 2**62], [10**300] * 200, [2] * 70_000, [-1, -4], [0, 10**4000], [1.5], ["1"], None, {}, [True], [2**64], [1] * 17]
        made: list[tuple[str, bytes]] = [
            (f"shape {index}", safetensors({"x": {**one, "shape": shape}}, b"\0" * 4)) for index, shape in enumerate(shapes)
        ]
        offsets = [[0, 2**70], [-4, 0], [4, 0], [None, 4], ["0", "4"], [0.0, 4.0], [0], [0, 4, 8], "04", {"0": 4}, [10**400, 10**400 + 4]]
        made += [(f"offsets {index}", safetensors({"x": {**one, "data_offsets": pair}}, b"\0" * 4)) for index, pair in enumerate(offsets)]
        kinds: list[Any] = ["F8", "", None, 3, [], "F8_E4M3"]
        made += [(f"dtype {kind!r}", safetensors({"x": {**one, "dtype": kind}}, b"\0" * 4)) for kind in kinds]
        metas: list[Any] = [None, [], "x", {"rapiddraw": 3}, {"rapiddraw": "{"}, {"rapiddraw": "[" * 90_000}, {"rapiddraw": '{"kind": []}'}]
        made += [(f"metadata {index}", safetensors({"__metadata__": meta, "x": one}, b"\0" * 4)) for index, meta in enumerate(metas)]
        made += [("no bytes", b""), ("length alone", struct.pack("<Q", 2)), ("length 2**63", safetensors({}, length=2**63))]
        made += [
            ("deep header", safetensors(b"[" * 100_000)),
            ("header no object", safetensors(b"3")),
            ("digits", safetensors(b"9" * 5000)),
        ]
        made += [("many tensors", safetensors({str(i): {**one, "shape": [0], "data_offsets": [0, 0]} for i in range(40_000)}))]
        self.made = made

    def mutation(self, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return damaged(self.good, rng)
        header = odd_tree(self.header, rng)
        meta = header.get("__metadata__") if isinstance(header, dict) else None
        if isinstance(meta, dict) and rng.random() < 0.5:
            for key, value in meta.items():
                try:
                    meta[key] = odd_json(json.loads(value), rng).decode("utf-8", "surrogatepass")
                except (TypeError, ValueError):
                    continue
        return safetensors(header, self.data)

    def call(self, data: bytes, label: str) -> Callable[[], Any]:
        from ..core.bundles.find import list_bundles
        from ..core.bundles.load import load_bundle
        from ..core.knowledge.graph import load_knowledge

        path = self.file(data, "hostile.safetensors")

        def read() -> None:
            list_bundles("kg")  # the folder is one of the weights folders: what a menu shows
            load_bundle(path)
            load_knowledge(path)

        return read


class PickledFiles(Door):
    """`.pth` files of upscalers: layouts of storages, wrappers, damaged archives."""

    name, share = ".pth files", 1.5

    def prepare(self) -> None:
        import torch

        from ..core.upscale.layouts import RRDBConfig
        from ..core.upscale.rrdb import build

        one, shape, name = torch.zeros(1), (8, 3, 3, 3), "conv_first.weight"
        whole = {key: value.detach() for key, value in build(RRDBConfig(num_feat=8, num_block=1, num_grow=4)).state_dict().items()}
        self.whole = whole
        with torch.device("meta"):
            shapeless = torch.zeros(shape)
        layouts = {
            "expanded": one.expand(10**6, 10**3, 30, 30), "wide": one.expand(10**9, 3, 3, 3), "meta": shapeless,
            "strided": torch.zeros(99).as_strided(shape, (0, 0, 0, 0)), "sparse": torch.zeros(9, 9).to_sparse(),
            "sparse csr": torch.eye(9).to_sparse_csr(), "complex": torch.zeros(shape, dtype=torch.complex64), "bool": torch.zeros(8).bool(),
            "float8": torch.zeros(shape).to(torch.float8_e4m3fn), "NaN": torch.full(shape, float("nan")), "a scalar": torch.tensor(1.0),
            "no axis": torch.zeros(0, 3, 3, 3), "whole numbers": torch.zeros(shape, dtype=torch.int64),
        }  # fmt: skip
        odd: list[tuple[str, Any]] = [(label, whole | {name: weight}) for label, weight in layouts.items()]
        odd += [("empty", {}), ("a list", [whole]), ("a number", 3), ("a tensor", one), ("none", None), ("number keys", {0: one, 1: one})]
        odd += [("nested", {"a": {"b": {"c": {"d": whole}}}}), ("a name with a surrogate", {"conv_first\ud800.weight": one} | whole)]
        odd += [("many blocks", {f"body.{index}.rdb1.conv1.weight": one.expand(8, 8, 3, 3) for index in range(3000)} | whole)]
        states: list[Any] = [whole, {"params_ema": whole}, {"params-ema": whole, "net": whole}, {"state_dict": {"model": whole}}]
        self.made = [(label, self._saved(state)) for label, state in odd]
        self.made += [("code", b"cos\nsystem\n(S'exit 1'\ntR."), ("text", b"hello"), ("nothing", b""), ("zip", b"PK\x05\x06" + b"\0" * 18)]
        self.good = [self._saved(state) for state in states] + [self._saved(whole, True)]

    @staticmethod
    def _saved(state: Any, old: bool = False) -> bytes:
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=not old)
        return buffer.getvalue()

    def mutation(self, rng: random.Random) -> bytes:
        import torch

        if rng.random() < 0.6:
            return damaged(rng.choice(self.good), rng)
        shape = [rng.choice((0, 1, 3, 8)) for _ in range(rng.randrange(7))]
        if shape and rng.random() < 0.3:
            shape[rng.randrange(len(shape))] = 2**40
        weight = torch.zeros(1).expand(*shape) if shape else torch.zeros(())
        name = rng.choice(("conv_first.weight", "model.0.weight", "netG.conv_first.weight", "body.0.rdb1.conv1.weight", hostile_text(rng)))
        state = self.whole | {name: weight, rng.choice(list(self.whole)): torch.zeros(8)}
        return self._saved(rng.choice((state, {"params": state}, {"net": [state]}, [state])))

    def call(self, data: bytes, label: str) -> Callable[[], Any]:
        from ..core.upscale.rrdb import load_upscaler

        path = self.file(data, "hostile.pth")
        return lambda: load_upscaler(path)


class Caches(Door):
    """Files of kept latents beside a dataset."""

    name, share = "latent caches", 1.5

    def prepare(self) -> None:
        import torch

        from ..core.train.inputs.latent_cache import write_rows

        self.rows = {bytes([index]) * 32: torch.full((4, 2, 2), float(index), dtype=torch.float16) for index in range(3)}
        path = self.folder / "good.safetensors"
        write_rows(path, self.rows)
        self.good = path.read_bytes()
        self.made = [("nothing", b""), ("text", b"hello"), ("the good one", self.good), ("another length", safetensors({}, length=2**63))]

    def mutation(self, rng: random.Random) -> bytes:
        return damaged(self.good, rng)

    def call(self, data: bytes, label: str) -> Callable[[], Any]:
        from ..core.train.inputs.latent_cache import read_rows

        path = self.file(data, "hostile.safetensors")

        def read() -> None:
            for key, row in read_rows(path, list(self.rows)).items():
                if row.shape != self.rows[key].shape or not bool((row == self.rows[key]).all()):
                    raise AssertionError("latents were believed that are not those of the picture")

        return read


class LanguageModels(Door):
    """Folders of language models: config, index, tokenizer and weights."""

    name, share = "language-model folders", 0.5

    def prepare(self) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

        good = self.folder / "good"
        words = {word: index for index, word in enumerate(("<unk>", "</s>", "a", "photo", "of", "pear", "fig", "on", "snow", "\n"))}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106 - a token of text, no secret
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(good)  # noqa: S106
        GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_positions=64, n_embd=8, n_layer=1, n_head=1)).save_pretrained(good)
        self.files = {path.name: path.read_bytes() for path in sorted(good.iterdir()) if path.is_file()}
        index = json.dumps({"metadata": {}, "weight_map": {"x": "../../../etc/passwd", "y": "/etc/passwd", "z": "x.bin"}}).encode()
        config = json.loads(self.files["config.json"])
        odd: list[dict[str, Any]] = [
            {"n_layer": 10**9}, {"n_embd": 2**40}, {"auto_map": {"AutoConfig": "x.Y"}}, {"attn_implementation": "hub/kernel"},
            {"model_type": []}, {"vocab_size": -1}, {"_attn_implementation": "flash_attention_2"}, {"architectures": [3]},
            {"torch_dtype": "x"}, {"quantization_config": {"quant_method": "bitsandbytes"}},
        ]  # fmt: skip
        self.made = [(f"config {next(iter(more))}", {"config.json": json.dumps({**config, **more}).encode()}) for more in odd]
        self.made += [("index outside", {"model.safetensors.index.json": index}), ("no config", {"config.json": b""})]
        self.made += [
            ("template", {"chat_template.jinja": b"{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}"})
        ]
        self.made += [("pickle beside", {"pytorch_model.bin": b"cos\nsystem\n(S'exit 1'\ntR."})]

    def mutation(self, rng: random.Random) -> dict[str, bytes]:
        name = rng.choice(sorted(self.files))
        data = self.files[name]
        return {name: odd_json(json.loads(data), rng) if name.endswith(".json") and rng.random() < 0.8 else damaged(data, rng)}

    def call(self, data: dict[str, bytes], label: str) -> Callable[[], Any]:
        from ..core.text.causal import load_causal

        root = self.folder / "model"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name, content in {**self.files, **data}.items():
            (root / name).write_bytes(content)
        return lambda: load_causal(root)


DOORS = (BundleHeaders, PickledFiles, Caches, LanguageModels)
