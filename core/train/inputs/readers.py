"""Text encoders of a U-Net in training: captions become tokens, with knowledge, by one encoder or several.

Several encoders read the same caption, and their features stand side by side in each token (PanGu-Draw, section 5, on bilingual text
encoding). A share of captions is read by one encoder alone, so that the U-Net learns to follow each of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from ...bundles.load import load_bundle
from ...errors import InputError
from ...knowledge.graph import load_knowledge
from ...knowledge.linking import wordpiece_linker
from ...text.embed import KnowledgeTable, tokenize_linked
from ...text.encoder import TextEncoder, load_text_encoder

MOST_KNOWN = 200_000
"""Captions whose tokens are kept."""


class Readers:
    """The text encoders of a U-Net, in the order of their features.

    `told` are the numbers of the encoders that read captions; () is all. The others get the empty prompt. Raises :class:`InputError` for
    encoders of different lengths, or for a number that no encoder has.
    """

    def __init__(self, paths: Sequence[str], graph_path: str, device: torch.device, told: Sequence[int] = ()) -> None:
        self.encoders: list[TextEncoder] = [load_text_encoder(load_bundle(path, "text")).to(device) for path in paths]
        lengths = [encoder.length for encoder in self.encoders]
        if len(set(lengths)) > 1 or any(not 0 <= number < len(paths) for number in told):
            raise InputError(f"text encoders of {lengths} tokens and reads={tuple(told)}: expected one length, and numbers from 0")
        self.told = tuple(told) or tuple(range(len(paths)))
        self._known: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in paths]
        self.tables: list[KnowledgeTable | None] = [None for _ in paths]
        if graph_path:
            graph = load_knowledge(graph_path)
            for number, encoder in enumerate(self.encoders):
                table = KnowledgeTable(graph, wordpiece_linker(graph, encoder.tokenizer))
                table.vectors = table.vectors.to(device)
                self.tables[number] = table

    @cached_property
    def _pieces(self) -> list[Tensor]:
        """The ids of each encoder's word pieces, without those that mean a beginning, an end or nothing."""
        special = [set(encoder.tokenizer.all_special_ids) for encoder in self.encoders]
        return [
            torch.tensor([piece for piece in range(len(encoder.tokenizer)) if piece not in its])
            for encoder, its in zip(self.encoders, special, strict=True)
        ]

    @property
    def widths(self) -> list[int]:
        """Return the number of features of a token, for each encoder."""
        return [encoder.width for encoder in self.encoders]

    def shared_out(self, captions: list[str], dropout: float, rng: random.Random) -> list[list[str]]:
        """Return what each encoder reads of `captions`. For a share `dropout` of the captions one encoder, drawn at random, reads them
        and the others get the empty prompt."""
        read = [list(captions) if number in self.told else [""] * len(captions) for number in range(len(self.encoders))]
        for i in range(len(captions) if len(self.told) > 1 and dropout else 0):
            if rng.random() < dropout:
                alone = rng.choice(self.told)
                for number in range(len(read)):
                    read[number][i] = captions[i] if number == alone else ""
        return read

    def tokens(self, number: int, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Return ids and knowledge rows (B, length) for one encoder, padded to the full length: the U-Net attends to the padding too.

        Captions come again in every epoch, so that those of up to :data:`MOST_KNOWN` captions are kept.
        """
        known, encoder = self._known[number], self.encoders[number]
        new = list(dict.fromkeys(caption for caption in captions if caption not in known))
        if len(known) + len(new) > MOST_KNOWN:
            known, new = {}, list(dict.fromkeys(captions))
            self._known[number] = known
        if new:
            ids, rows = tokenize_linked(encoder, self.tables[number], new)
            missing, pad = encoder.length - ids.shape[1], int(encoder.config["pad_token_id"])
            whole = nn.functional.pad(ids, (0, missing), value=pad), nn.functional.pad(rows, (0, missing))
            known.update(zip(new, zip(*whole, strict=True), strict=True))
        found = [known[caption] for caption in captions]
        return torch.stack([ids for ids, _ in found]), torch.stack([rows for _, rows in found])

    def renamed(self, number: int, tokens: tuple[Tensor, Tensor], chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return `tokens` with random word pieces in the place of every name that the graph knows, in the texts `chosen` (B, 1) bool."""
        ids, rows = tokens
        pieces = self._pieces[number]
        drawn = pieces[torch.randint(len(pieces), ids.shape, generator=generator)]
        return torch.where((rows > 0) & chosen, drawn, ids), rows

    def encode(self, ids: Sequence[Tensor], rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (tokens (B, length, all widths), the pooled state (B, width) of the last encoder) from one pair of ids and rows for
        each encoder."""
        encoded = []
        for encoder, table, its_ids, its_rows in zip(self.encoders, self.tables, ids, rows, strict=True):
            device = next(encoder.parameters()).device
            known = None if table is None else encoder.knowledge(table.vectors[its_rows.to(device)])
            encoded.append(encoder.encode_ids(its_ids.to(device), known))
        return torch.cat([tokens for tokens, _ in encoded], dim=2), encoded[-1][1]
