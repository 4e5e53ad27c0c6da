"""The embedded host's CLIP: the project's text encoder behind the socket that CLIPTextEncode expects."""

from __future__ import annotations

from typing import Any

import torch

from ..knowledge.attach import Attachment, all_links, attach, inform
from ..knowledge.graph import KnowledgeGraph
from ..knowledge.linking import EntityLink, wordpiece_linker
from ..text.encoder import TextEncoder
from .embedded_prompt import parse_weights, token_rows

ENCODER = "rapiddraw"  # the key of this encoder's rows in what `tokenize` returns


Rows = list[list[tuple[Any, ...]]]


class Clip:
    """A tokenizer, a text encoder and the knowledge attached to them. `clone()` before attaching: outputs of nodes are shared."""

    def __init__(self, encoder: TextEncoder, device: torch.device, attachments: tuple[Attachment, ...] = ()) -> None:
        self.encoder, self.device, self.attachments = encoder, device, attachments

    def clone(self) -> Clip:
        """The same encoder and attachments in an object of its own."""
        return Clip(self.encoder, self.device, self.attachments)

    def with_knowledge(self, knowledge: KnowledgeGraph, scale: float) -> Clip:
        """A clone that adds `scale * W e_kg` to the tokens of every entity it finds. Attaching a graph again replaces its scale.

        Raises :class:`KnowledgeError` where the graph has no vectors or some of another length than this encoder was trained with.
        """
        attachments = attach(
            self.attachments, knowledge, scale, self.encoder.config["kg_dim"], lambda: wordpiece_linker(knowledge, self.encoder.tokenizer)
        )
        return Clip(self.encoder, self.device, attachments)

    def tokenize(self, text: str) -> dict[str, Rows]:
        """Rows of (id, weight), the context length each; at the tokens of a linked entity an embedding (width,) instead of an id."""
        return {ENCODER: inform(self._plain_rows(text), self.attachments, self._embed, self._project)}

    def links(self, text: str) -> list[EntityLink]:
        """What :meth:`tokenize` links in `text`, graph by graph, in reading order."""
        return all_links(self._plain_rows(text), self.attachments)

    def _plain_rows(self, text: str) -> Rows:
        config = self.encoder.config
        start, end, pad = config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]
        return token_rows(parse_weights(text), self._token_ids, start, end, pad, self.encoder.length)

    def _token_ids(self, segment: str) -> list[int]:
        return self.encoder.tokenizer(segment, add_special_tokens=False, verbose=False)["input_ids"]

    @torch.no_grad()
    def _embed(self, token: int) -> torch.Tensor:
        return self.encoder.embed(torch.tensor([token], device=self.device))[0]

    @torch.no_grad()
    def _project(self, vector: torch.Tensor) -> torch.Tensor:
        return self.encoder.knowledge(vector.to(self.device))

    @torch.no_grad()
    def encode_from_tokens(self, tokens: dict[str, Rows]) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, rows * length, width) hidden states, rows in one sequence, and the first row's pooled state (1, width).

        A weight w moves a token's state away from the empty prompt's at the same place: `z_empty + w (z - z_empty)`.
        """
        rows = tokens[ENCODER]
        is_weighted = any(token[1] != 1.0 for row in rows for token in row)
        to_encode = [[token[0] for token in row] for row in rows]
        if is_weighted:
            config = self.encoder.config
            padding = [config["pad_token_id"]] * (self.encoder.length - 2)
            to_encode.append([config["bos_token_id"], config["eos_token_id"], *padding])
        hidden, pooled = self._encode(to_encode)
        if is_weighted:
            empty, hidden = hidden[-1:], hidden[:-1]
            weights = torch.tensor([[token[1] for token in row] for row in rows], device=hidden.device)[..., None]
            hidden = torch.where(weights == 1.0, hidden, (hidden - empty) * weights + empty)
        return hidden.reshape(1, -1, hidden.shape[-1]).cpu(), pooled[:1].cpu()

    def encode_from_tokens_scheduled(self, tokens: dict[str, Rows]) -> list[list[Any]]:
        """CONDITIONING, under ComfyUI's name for the call."""
        cond, pooled = self.encode_from_tokens(tokens)
        return [[cond, {"pooled_output": pooled}]]

    def _encode(self, rows: list[list[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        encoder = self.encoder
        ids = torch.tensor([[0 if torch.is_tensor(token) else int(token) for token in row] for row in rows], device=self.device)
        embeddings = encoder.embed(ids)
        for i, row in enumerate(rows):
            for j, token in enumerate(row):
                if torch.is_tensor(token):
                    embeddings[i, j] = token.to(self.device, embeddings.dtype)
        return encoder.encode_embeddings(embeddings, (ids == encoder.end_id).int().argmax(dim=1))
