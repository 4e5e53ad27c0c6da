"""Writers of detailed prompts: a grammar without a model, this project's prompt bundles, or a user's own language model.

Each is a :class:`Writer`. A writer is not trusted with names: :mod:`~..operations.enhance` checks them in its texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .protect import Span

if TYPE_CHECKING:
    import torch

    from .prompt_model import PromptModel

MARK = "{prompt}"
Candidate = tuple[str, float]
"""A detailed prompt, and how likely its writer finds it: the mean log-probability of a token (0 where it has no opinion)."""


class Writer(Protocol):
    """Writes `count` candidates for `text` in `language`. `spans` are what must stay verbatim; `generator` decides all that is drawn."""

    def write(
        self, text: str, spans: Sequence[Span], language: str, count: int, temperature: float, generator: torch.Generator
    ) -> list[Candidate]: ...


@dataclass(frozen=True)
class GrammarWriter:
    """A writer that adds a place, a light and a style from templates, where the prompt has none. It does not use `temperature`."""

    def write(
        self, text: str, spans: Sequence[Span], language: str, count: int, temperature: float, generator: torch.Generator
    ) -> list[Candidate]:
        """See :class:`Writer`."""
        import torch

        grammar = _grammar()
        lacking = [part for part in grammar["order"][language] if not mentions(text, grammar[language][part]["cues"], language)]
        found = []
        for _ in range(count):
            whole = text
            for part in lacking:
                forms = grammar[language][part]["say"]
                form = forms[int(torch.randint(len(forms), (), generator=generator))]
                joined = whole[:1].lower() + whole[1:] if form.index(MARK) and whole[:2] in ("A ", "An") else whole
                whole = form.replace(MARK, joined)
            found.append((whole, 0.0))
        return list(dict.fromkeys(found))


def mentions(text: str, cues: Sequence[str], language: str) -> bool:
    """Return whether `text` already says one of `cues`: as a word in English, anywhere in Chinese."""
    if language == "en":
        return not set(re.findall("[a-z]+", text.lower())).isdisjoint(cues)
    return any(cue in text for cue in cues)


@dataclass(frozen=True)
class BundleWriter:
    """A prompt bundle as a writer. It copies words that it does not know. A candidate that leaves such a word out is not returned."""

    model: PromptModel

    def write(
        self, text: str, spans: Sequence[Span], language: str, count: int, temperature: float, generator: torch.Generator
    ) -> list[Candidate]:
        """See :class:`Writer`. Returns nothing where the prompt is too long or has too many unknown words for the model."""
        from .prompt_model import END
        from .sampling import continuations

        slots: list[str] = []
        ids = self.model.encode(text, spans, slots)
        question = self.model.question(ids, language) if ids is not None else []
        room = self.model.length - len(question) - 1
        if not question or room < len(question):
            return []
        found = continuations(self.model.network, question, count, temperature, generator, (self.model.ids[END],), room)
        answers = [(self.model.decode(tokens, slots, language), score) for tokens, score in found]
        return [(answer, score) for answer, score in answers if all(slot in answer for slot in slots)]


@lru_cache(maxsize=1)
def _grammar() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("enrich.json").read_text(encoding="utf-8"))


def question_words(language: str) -> dict[str, Any]:
    """Return how a general language model is asked: `task`, the labels `short` and `long`, and `examples` of both."""
    return _grammar()["question"][language]
