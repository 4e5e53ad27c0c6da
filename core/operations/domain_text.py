"""The text side of a training: LoRA pairs on a CLIP's encoders, and the W through which they read a knowledge graph.

Rapid Diffusion trains its text encoder along with the U-Net (appendix B), with `e = e_txt + W e_kg` at its input (section 3.1.1). Here the
encoder's weights are frozen: pairs on its layers are trained, or W, or both, by the diffusion loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError, KnowledgeError
from ..host.texts import TextsInTraining
from ..knowledge.attach import Attachment, KnowledgeReader
from ..knowledge.projection import Projection, save_projection
from ..lowrank.hooked import Switched
from ..lowrank.lora import Factors, attach_lora
from ..lowrank.lora_file import TEXT_PREFIX
from ..networks import weight_sum
from .domain_choices import LAYERS

TEXT_PARTS = TEXT, PROJECTION = ("text", "projection")
"""Names of what is trained of the text side."""


class ProjectionChange(Switched):
    """A change of the W of a graph for each encoder, zero at the start. Its parameters are those that are trained."""

    def __init__(self, attachment: Attachment, device: torch.device) -> None:
        super().__init__()
        graph = attachment.knowledge
        if graph.embeddings is not None:
            graph = graph.with_embeddings(graph.embeddings.clone())  # tensors that autograd may keep
        self.attachment = replace(attachment, knowledge=graph)
        self.changes = nn.ParameterDict({key: torch.zeros(*one.shape, device=device) for key, one in attachment.weights.items()})

    def informed(self, reader: KnowledgeReader) -> KnowledgeReader:
        """Return `reader` with the changed W in the place of its own."""
        weights = {key: one.to(self.changes[key]) + self.strength * self.changes[key] for key, one in self.attachment.weights.items()}
        return replace(reader, attachments=(replace(self.attachment, weights=weights),))

    def detach(self) -> None:
        """Do nothing: no network holds the change."""

    def saved(self, path: Path, provenance: dict[str, Any]) -> Path:
        """Write the changed W as a bundle of kind `projection`."""
        weights = {key: (one.to(self.changes[key]) + self.changes[key]).detach().cpu() for key, one in self.attachment.weights.items()}
        return save_projection(path, Projection(weights, self.attachment.knowledge.digest, provenance))


class TextSide:
    """The CLIP of a training, and what is trained of it.

    Raises :class:`InputError`, before any work, for a CLIP with other encoders than CLIP's (T5, language models), and where W is to be
    learned and the CLIP has not exactly one graph.
    """

    def __init__(self, host: Any, clip: Any, learns_projection: bool) -> None:
        self.host, self.clip, self.learns_projection = host, clip, learns_projection
        try:
            self.reader: KnowledgeReader = host.knowledge.reader_of(clip)
        except KnowledgeError as error:
            raise InputError(f"the text encoder of this CLIP cannot be trained ({error}); set text_rank to 0") from error
        if any(space.language for space in self.reader.spaces):
            raise InputError(
                "text_rank and learn_projection are for the text encoders of SD 1.5, SDXL and this pack's bundles; this CLIP has T5 or a "
                "language model: set text_rank to 0 and learn_projection off"
            )
        graphs = len(self.reader.attachments)
        if learns_projection and graphs != 1:
            given = "no knowledge graph" if not graphs else f"{graphs} knowledge graphs"
            raise InputError(f"learn_projection is on and the CLIP has {given}; put one Apply Knowledge between the CLIP and this node")
        self.change: ProjectionChange | None = None
        self.training: TextsInTraining | None = None

    def weights(self) -> int:
        """Return the number of parameters of the encoders."""
        return sum(one.numel() for one in self.host.speed.network_of("clip", self.clip).parameters())

    def weight_sum(self) -> float:
        """Return a sum over the encoders' weights and W, to tell one CLIP from another."""
        network = self.host.speed.network_of("clip", self.clip)
        projections = [one for attached in self.reader.attachments for one in attached.weights.values()]
        return weight_sum([*network.parameters(), *projections])

    def begin(self) -> TextsInTraining:
        """Make the copies of the encoders that are trained."""
        self.training = self.host.training.texts(self.clip)
        return self.training

    def attach(self, recipe: Any) -> dict[str, Any]:
        """Put what `recipe` trains of the text side in its place, and return it by name."""
        if self.training is None:
            raise InputError("the text side was not begun")
        learned: dict[str, Any] = {}
        if recipe.text_rank:
            alpha = recipe.alpha * recipe.text_rank / recipe.rank
            learned[TEXT] = attach_lora(self.training.network, LAYERS[recipe.layers], recipe.text_rank, alpha, self.training.device)
        if self.learns_projection:
            self.change = learned[PROJECTION] = ProjectionChange(self.reader.attachments[0], self.training.device)
        return learned

    def __getitem__(self, text: str) -> Any:
        """Return the CONDITIONING of `text` as the encoders make it now."""
        if self.training is None:
            raise KeyError(text)
        return self.training.encode(text, self.reader if self.change is None else self.change.informed(self.reader))

    def release(self) -> None:
        """Give the memory of the copies free."""
        if self.training is not None:
            self.training.release()
            self.training = None


def text_factors(learned: Mapping[str, Any]) -> dict[str, Factors]:
    """Return the factors of the pairs on the text encoder by their keys in a LoRA file; {} where there are none."""
    return {f"{TEXT_PREFIX}{name}": one for name, one in learned[TEXT].factors().items()} if TEXT in learned else {}


def beside(out: Path, places: Sequence[Path]) -> Path:
    """Return where a second file goes: to its place, or beside `out` where that was written somewhere else than to its own."""
    return places[1] if len(places) > 1 and out == places[0] else out.with_name(f"{out.stem}-projection{out.suffix}")
