"""Pairs of a succinct prompt and a detailed one: drawn from the Orchard's scenes, or read from a user's own file.

PanGu-Draw (section 7) has people enrich succinct prompts "with background and style descriptions". Here the scene itself knows its
background and its style: a pair is two captions of one scene, and the longer caption says everything that the shorter one says.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...orchard.captions import describe
from ...orchard.entities import Entity, entities, words
from ...orchard.world import FRUIT_ATTRIBUTES, Scene, random_scene
from ...text.prompt_model import LANGUAGES, Pair

PAIRS = "prompts.jsonl"
MAX_LINE = 2**16
NAMED, OTHER_LANGUAGE, STRANGER = 0.6, 0.15, 0.35
"""Shares of pairs that name a fruit, that have two prompts in different languages, and that hold a word which no caption has."""
_LOOKS = tuple(name for name in FRUIT_ATTRIBUTES if name != "pattern_colour")
_BACKGROUND = ("ground", "sky")
_LETTERS = "bcdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Request:
    """A succinct prompt and the scene it asks for. `said` are the attributes that the picture must show, because the prompt or the name
    says so."""

    pair: Pair
    scene: Scene
    said: tuple[str, ...]
    entity: Entity | None = None


def orchard_request(rng: random.Random, splits: Sequence[str] = ("seen", "rare"), strangers: bool = True) -> Request:
    """Return one pair from a random scene. A prompt that names a fruit says little else; a prompt without a name says one to three looks.

    The detailed prompt adds ground and sky, a style where the succinct one has none, and in half of the pairs each size and position.
    """
    entity = rng.choice([e for e in entities() if e.split in splits]) if rng.random() < NAMED else None
    scene = entity.scene(rng) if entity else random_scene(rng)
    language = rng.choice(LANGUAGES)
    source = language if rng.random() >= OTHER_LANGUAGE else next(code for code in LANGUAGES if code != language)
    said = set() if entity else set(rng.sample(_LOOKS, rng.choice((1, 1, 2, 3))))
    for extra, share in (("ground", 0.2), ("sky", 0.15), ("size", 0.1), ("position", 0.1)):
        said |= {extra} if rng.random() < share else set()
    more = said | set(_BACKGROUND) | {name for name in ("size", "position") if rng.random() < 0.5}
    stranger = invented_word(rng) if strangers and rng.random() < STRANGER else ""
    styled, describes = rng.random() < 0.25, rng.random() < 0.5
    keep, texts = [], []
    for code, attributes, framed in ((source, said, styled), (language, more, True)):
        # A name differs between the languages, and a copied word must stay the same: the name stays as it was typed.
        name = None if entity is None else entity.name_en if source == "en" else entity.name_zh
        if stranger:
            # The unknown word is a property of the fruit or another thing.
            subject = name or words()[code]["fruit"]
            described = stranger + (" " if code == "en" or subject.isascii() else "") + subject
            name = described if describes or name else stranger
        text = describe(scene, name, attributes, code)
        texts.append(rng.choice(words()[code]["templates"][scene.style]).format(object=text) if framed else text)
        if entity is not None:
            keep.append(entity.name_en if source == "en" else entity.name_zh)
    keep += [stranger] if stranger else []
    short = bare(texts[0], source, rng) if not styled else texts[0]
    shown = (*_LOOKS, *sorted(said & {*_BACKGROUND, "size", "position"})) if entity else tuple(sorted(said))
    return Request(Pair(short, texts[1], language, tuple(dict.fromkeys(keep))), scene, shown, entity)


def bare(text: str, language: str, rng: random.Random) -> str:
    """Return a description as people type it: often without its article."""
    if language == "en" and rng.random() < 0.5:
        return text.removeprefix("a ").removeprefix("an ")
    return text


def invented_word(rng: random.Random) -> str:
    """Return a word that no vocabulary has, so that a model learns to copy words it does not know."""
    return "".join(rng.choice(_LETTERS[index % 2]) for index in range(rng.randint(4, 9)))


def orchard_pairs(count: int, seed: int) -> list[Pair]:
    """Return `count` pairs, the same for the same `seed`, with no names but those that captions may hold."""
    rng = random.Random(f"prompts/{seed}")
    return [orchard_request(rng).pair for _ in range(count)]


def read_pairs(root: str | Path) -> list[Pair]:
    """Return the pairs of a folder's `prompts.jsonl`. Raises :class:`DataError` that names the line.

    A line is {"short": "...", "long": "...", "language": "en", "keep": ["a name"]}; "keep" is optional.
    """
    path = Path(root) / PAIRS
    if not path.is_file():
        raise DataError(f'{root} has no {PAIRS}: one JSON object a line, {{"short": "...", "long": "...", "language": "en"}}')
    pairs = []
    with path.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
            if not raw.strip():
                continue
            try:
                row: Any = json.loads(raw.decode("utf-8")) if len(raw) <= MAX_LINE else None
                pair = Pair(row["short"], row["long"], row["language"], tuple(row.get("keep", ())))
                if not all(isinstance(t, str) and t.strip() for t in (pair.short, pair.long, *pair.keep)) or pair.language not in LANGUAGES:
                    raise ValueError(f"texts must not be empty and the language must be one of {', '.join(LANGUAGES)}")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise DataError(f"{path.name}, line {number}: expected short, long and language ({error})") from error
            pairs.append(pair)
    if not pairs:
        raise DataError(f"{path} is empty")
    return pairs
