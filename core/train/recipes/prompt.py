"""Recipe `prompt`: a small language model that turns a succinct prompt into a detailed one.

    python -m rapiddraw train prompt --out weights/my-prompt.safetensors
    python -m rapiddraw train prompt --data DIR --out ...        (pairs of your own: DIR/prompts.jsonl)

The model learns to predict each next word of the detailed prompt that follows the succinct one; it does not learn to predict the succinct
one. The recipe `raft` goes on from there.

Paper: PanGu-Draw (section 7, prompt enhancement), first stage.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...bundles.format import save_bundle
from ...bundles.load import load_bundle
from ...errors import InputError
from ...text.prompt_model import PAD, Pair, PromptModel, build_vocabulary, default_config, load_prompt_model, to_bundle
from ..inputs.prompt_data import orchard_pairs, read_pairs
from ..recipe import EpochOrder, Losses, Recipe, python_random

IGNORE = -100


def padded(rows: Sequence[tuple[list[int], int]], pad: int) -> dict[str, Tensor]:
    """Return `ids` (B, L) and `labels` (B, L) from rows of (ids, where the answer begins); question and padding are labelled
    :data:`IGNORE`."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORE, dtype=torch.long)
    for row, (tokens, answer) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, answer : len(tokens)] = torch.tensor(tokens[answer:])
    return {"ids": ids, "labels": labels}


def next_token_loss(model: PromptModel, batch: dict[str, Tensor]) -> Losses:
    """Return the cross-entropy of every answer's tokens, and the share of tokens that the model finds likeliest."""
    logits = model.network(input_ids=batch["ids"]).logits[:, :-1].flatten(0, 1).float()
    target = batch["labels"][:, 1:].flatten()
    known = target != IGNORE
    right = (logits.detach().argmax(dim=1) == target)[known].float().mean()
    return {"loss": functional.cross_entropy(logits, target, ignore_index=IGNORE), "right": right}


@dataclass
class PromptRecipe(Recipe):
    """Settings of the recipe `prompt`.

    `data` is a folder with `prompts.jsonl`; without it `count` pairs are drawn from the Orchard's scenes, in both languages. `base` is a
    prompt bundle to continue from; its words must cover the pairs (other words are copied, not learned).
    """

    name: ClassVar[str] = "prompt"
    default_steps: ClassVar[int] = 1500
    bundles: ClassVar[Mapping[str, str]] = {"base": "prompt"}

    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.99
    count: int = 20_000  # pairs drawn where there is no folder
    held_out: int = 256  # pairs that give the reported loss
    base: str = ""  # a prompt bundle to continue from
    width: int = 96  # features of a token
    layers: int = 3  # transformer layers
    heads: int = 4  # attention heads
    tokens: int = 96  # tokens that prompt and answer may have together

    def setup(self, device: torch.device) -> None:
        pairs = read_pairs(self.data) if self.data else orchard_pairs(self.count + self.held_out, self.seed)
        if self.base:
            self.model = load_prompt_model(load_bundle(self.base, "prompt")).requires_grad_(True).to(device)
        else:
            config = default_config(n_embd=self.width, n_layer=self.layers, n_head=self.heads, n_positions=self.tokens)
            self.model = PromptModel(config, build_vocabulary(pairs)).to(device)
        fitting = [pair for pair in pairs if self.model.pair(pair) is not None]
        if len(fitting) <= self.held_out:
            raise InputError(
                f"{len(fitting)} of {len(pairs)} pairs fit into {self.model.length} tokens; more than {self.held_out} are needed"
            )
        self.pairs, self.others = fitting[self.held_out :], fitting[: self.held_out]
        self.order = EpochOrder(len(self.pairs), self.batch_size, self.seed)
        self.device = device

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        rng = python_random(generator)
        return self._rows([self.pairs[i] for i in self.order.indices(index)], rng)

    def loss(self, batch: dict[str, Tensor]) -> Losses:
        return next_token_loss(self.model, batch)

    def evaluate(self, step: int, run_dir: Path) -> dict[str, float]:
        return self._held_out()

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        provenance.setdefault("metrics", {}).update({f"held_out_{key}": round(value, 4) for key, value in self._held_out().items()})
        return [save_bundle(out, *to_bundle(self.model, provenance))]

    def check(self) -> None:
        super().check()
        if not 1 <= self.held_out <= 10_000 or not 1 <= self.count <= 1_000_000:
            raise InputError(f"count={self.count!r}, held_out={self.held_out!r}: expected 1 to 1,000,000 and 1 to 10,000 pairs")

    @torch.no_grad()
    def _held_out(self) -> dict[str, float]:
        batch = self._rows(self.others, None)
        losses = next_token_loss(self.model, {key: tensor.to(self.device) for key, tensor in batch.items()})
        return {key: float(value) for key, value in losses.items()}

    def _rows(self, pairs: Sequence[Pair], rng: random.Random | None) -> dict[str, Tensor]:
        rows = [row for pair in pairs if (row := self.model.pair(pair, rng)) is not None]
        return padded(rows, self.model.ids[PAD])
