"""Prompt enhancement: from a short prompt to a detailed one that keeps every name (PanGu-Draw, section 7).

A writer proposes several detailed prompts. A proposal that lost a name of the knowledge graph, a quoted term or prompt syntax is refused.
Where none is left, the writer tries again with other random numbers. After the last try the prompt stays unchanged, and the report says so.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..language import is_cjk
from ..text.protect import lost, protected_spans
from ..text.sampling import MAX_CANDIDATES
from ..text.writers import BundleWriter, Candidate, GrammarWriter, Writer

if TYPE_CHECKING:
    from ..knowledge.graph import KnowledgeGraph
    from .rank import Rank

GRAMMAR = "(template grammar, no model)"
LANGUAGES = ("auto", "en", "zh")
BEST_OF = ("likelihood", "clip", "first")
TRIES = 3
MAX_TEXT = 2000


@dataclass(frozen=True)
class Enhanced:
    """The outcome: `text` is the prompt to draw, `candidates` are the proposals that kept all names, best first, each with its score.

    `kept` are the protected parts of the prompt, `lost` those that refused proposals lost; `refused` and `tries` are counts.
    """

    text: str
    original: str
    candidates: tuple[Candidate, ...]
    kept: tuple[str, ...]
    lost: tuple[str, ...]
    refused: int
    tries: int

    @property
    def report(self) -> str:
        """The outcome in a few lines of text."""
        lines = []
        if not self.original.strip():
            return "the prompt is empty, so it stays empty: guidance needs an empty negative prompt"
        if not self.candidates:
            why = f"all lost {', '.join(map(repr, self.lost))}" if self.lost else "none said more than the prompt"
            lines.append(f"the prompt is unchanged: of {self.refused} proposals in {self.tries} tries {why}")
        elif self.refused:
            names = f", because they lost {', '.join(map(repr, self.lost))}" if self.lost else ""
            lines.append(f"{self.refused} proposals were refused in {self.tries} tries{names}")
        lines += [f"{score:8.3f}  {text}" for text, score in self.candidates]
        lines.append("kept letter by letter: " + (", ".join(self.kept) or "nothing, since the prompt names and quotes nothing"))
        return "\n".join(lines)


@dataclass(frozen=True)
class Proposals:
    """How proposals are drawn: `count` (1 to 16) of them at `temperature` (0 to 10), equal for an equal `seed`, in `language`."""

    count: int = 4
    temperature: float = 0.7
    seed: int = 0
    language: str = "auto"

    def check(self) -> None:
        """Raise :class:`InputError` for an unknown language, or a count or temperature out of range."""
        if self.language not in LANGUAGES:
            raise InputError(f"language {self.language!r} is not known: choose one of {', '.join(LANGUAGES)}")
        if not 1 <= self.count <= MAX_CANDIDATES or not 0 <= self.temperature <= 10:
            raise InputError(f"num_candidates={self.count}, temperature={self.temperature}: expected 1 to {MAX_CANDIDATES} and 0 to 10")

    def language_of(self, text: str) -> str:
        """Return the language to write in: the one asked for, or the prompt's own."""
        return self.language if self.language != "auto" else "zh" if any(map(is_cjk, text)) else "en"


_FOUR = Proposals()


def enhance(
    text: str,
    writer: Writer,
    proposals: Proposals = _FOUR,
    knowledge: KnowledgeGraph | None = None,
    rank: Rank | None = None,
    first: bool = False,
) -> Enhanced:
    """Return the best of the `proposals` of `writer` for `text`.

    `rank` scores candidates, higher is better; without it the writer's own likelihood does. With `first` they stay in the order in which
    they were drawn. Raises :class:`InputError` for a text of more than 2000 characters, and for proposals out of range.
    """
    import torch

    if len(text) > MAX_TEXT:
        raise InputError(f"the prompt has {len(text)} characters; at most {MAX_TEXT} are enhanced")
    proposals.check()
    if not text.strip():
        return Enhanced(text, text, (), (), (), 0, 0)
    language = proposals.language_of(text)
    spans = protected_spans(text, knowledge)
    kept = tuple(dict.fromkeys(text[span.start : span.end] for span in spans))
    found: dict[str, float] = {}
    missing: dict[str, None] = {}
    refused = tries = 0
    while not found and tries < TRIES:
        generator = torch.Generator().manual_seed(_seed(proposals.seed, tries))
        tries += 1
        for answer, score in writer.write(text, spans, language, proposals.count, proposals.temperature, generator):
            gone = lost(answer, kept)
            missing.update(dict.fromkeys(gone))
            if gone or not answer.strip() or answer.strip() == text.strip():
                refused += 1
            else:
                found.setdefault(answer, score)
    texts = list(found)
    scores = [float(score) for score in rank(texts)] if rank is not None and texts else [found[text] for text in texts]
    ordered = list(zip(texts, scores, strict=True))
    if not first:
        ordered.sort(key=lambda row: -row[1])
    return Enhanced(ordered[0][0] if ordered else text, text, tuple(ordered), kept, tuple(missing), refused, tries)


def list_writers() -> list[str]:
    """Return the names of all writers: prompt bundles, then the user's language models, then the grammar, which always exists."""
    from ..bundles.find import list_bundles
    from ..text.causal import list_models

    return [*list_bundles("prompt"), *list_models(), GRAMMAR]


def writer_fingerprint(name: str) -> str:
    """Return a hash of the files behind a writer. Raises as :func:`load_writer`."""
    from ..bundles.find import resolve_bundle
    from ..paths import file_sha256
    from ..text.causal import model_fingerprint

    if name == GRAMMAR:
        return name
    return file_sha256(resolve_bundle(name, "prompt")) if Path(name).suffix == ".safetensors" else model_fingerprint(name)


def load_writer(name: str) -> Writer:
    """Return the writer of that name. Raises :class:`BundleError` or :class:`InputError` where it is unknown, damaged or outside a folder.

    A user's model is moved to the host's device; the host makes room for it there.
    """
    from ..bundles.find import resolve_bundle
    from ..bundles.load import load_bundle
    from ..text.causal import load_causal, resolve_model
    from ..text.prompt_model import load_prompt_model

    if name == GRAMMAR:
        return GrammarWriter()
    if Path(name).suffix == ".safetensors":
        return BundleWriter(load_prompt_model(load_bundle(resolve_bundle(name, "prompt"), "prompt")))
    from ..host import current

    writer = load_causal(resolve_model(name))
    size = sum(tensor.numel() * tensor.element_size() for tensor in writer.network.parameters())
    device = current().process.make_room(size)
    writer.network.to(device)
    return writer


def _seed(seed: int, attempt: int) -> int:
    return int.from_bytes(hashlib.sha256(f"enhance/{seed}/{attempt}".encode()).digest()[:8], "little") >> 1
