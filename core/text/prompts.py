"""Prompts from keywords, one slot for each element that a user names (Rapid Diffusion, section 5.1).

Keywords come as lines `slot: value, value`. Each prompt takes one value of every slot and says it in the words that this project's captions
use, in English or Chinese. A value that has no such word is said as it is. With a knowledge graph, entities that fit the keywords are named
instead of described: the graph knows the rest.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..language import folded_name, is_text
from ..orchard.entities import words

if TYPE_CHECKING:
    from ..knowledge.graph import KnowledgeGraph

LANGUAGES = ("en", "zh")
MAX_PROMPTS = 64
MAX_CHARACTERS = 10_000
MAX_VALUES = 64
MAX_LENGTH = 100
EXAMPLE = "subject: fruit\ncolour: red, teal\nshape: heart, star\nground: snow"

Keywords = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Prompts:
    """`texts` are distinct while there are enough of the `possible` combinations; `entities` are the ids the graph found to fit."""

    texts: tuple[str, ...]
    entities: tuple[str, ...]
    possible: int

    @property
    def report(self) -> str:
        """One line for each thing worth knowing."""
        found = f"; the graph has {len(self.entities)} that fit: {', '.join(self.entities[:8])}" if self.entities else ""
        return f"{len(self.texts)} of {self.possible} possible prompts{found}" + (", ..." if len(self.entities) > 8 else "")


def generate_prompts(keywords: str, language: str, count: int, seed: int, knowledge: KnowledgeGraph | None = None) -> Prompts:
    """Return `count` prompts (1 to 64) from keyword text, the same for the same seed.

    Without a subject, and without an entity of the graph that fits, a prompt says "object". Raises :class:`InputError` for an unknown
    language, a count out of range, or keywords that cannot be read (see :func:`parse_keywords`).
    """
    if language not in LANGUAGES:
        raise InputError(f"language {language!r} is not known: choose one of {', '.join(LANGUAGES)}")
    if not 1 <= count <= MAX_PROMPTS:
        raise InputError(f"num_prompts is {count}: give a whole number from 1 to {MAX_PROMPTS}")
    slots = parse_keywords(keywords)
    if not slots and knowledge is None:
        raise InputError(f"there are no keywords: write one slot a line, for example\n{EXAMPLE}")
    found: list[str] = []
    if knowledge is not None and "subject" not in slots:
        found, told = fitting_entities(knowledge, slots, language)
        if found:
            names = [knowledge.aliases[entity][language][0] for entity in found]
            slots = {slot: values for slot, values in slots.items() if slot not in told} | {"subject": names}
    slots = {slot: list(dict.fromkeys(values)) for slot, values in slots.items()}
    style = slots.pop("style", ["fine"])
    frames = [(name, template) for name in style for template in _templates(name, language)]
    possible = len(frames)
    for values in slots.values():
        possible *= len(values)
    rng = random.Random(seed)
    texts: list[str] = []
    while len(texts) < count:
        for number in _distinct(rng, possible, count - len(texts)):
            number, index = divmod(number, len(frames))
            chosen = {}
            for slot, values in slots.items():
                number, position = divmod(number, len(values))
                chosen[slot] = values[position]
            name, template = frames[index]
            texts.append(template.format(style=name, object=_phrase(chosen, language)))
    return Prompts(tuple(texts), tuple(found), possible)


def parse_keywords(text: str) -> dict[str, list[str]]:
    """Return slots and their values from lines `slot: a, b`. Full-width punctuation is read too; `#` starts a comment.

    Slot names are read in English and Chinese. Values that the project has words for become their English keys. A slot of another name
    keeps that name and describes the subject. Raises :class:`InputError`, which names the line, for text without a colon and for too much
    of anything.
    """
    if not is_text(text):
        raise InputError("the keywords hold half of a surrogate pair, which is no character; write them again")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"the keywords are {len(text)} characters long; {MAX_CHARACTERS} are allowed")
    slots: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        name, colon, rest = (
            (part.strip() for part in re.split("([:\uff1a])", line, maxsplit=1)) if re.search("[:\uff1a]", line) else (line, "", "")
        )
        if not colon or not name:
            raise InputError(f"line {number} of the keywords is {line[:60]!r}: write 'slot: value, value', for example 'colour: red, teal'")
        slot = _slot_names().get(folded_name(name), folded_name(name))
        values = [_canonical(slot, value.strip()) for value in re.split("[,;\uff0c\u3001\uff1b]", rest) if value.strip()]
        if any(len(value) > MAX_LENGTH for value in values) or len(values) > MAX_VALUES:
            raise InputError(f"line {number} of the keywords: at most {MAX_VALUES} values of {MAX_LENGTH} characters each")
        if values:
            slots.setdefault(slot, []).extend(values)
    return slots


def fitting_entities(knowledge: KnowledgeGraph, slots: Keywords, language: str) -> tuple[list[str], set[str]]:
    """Return the entities with a name in `language` that fit most of `slots`, and the slots that the graph can answer.

    An entity fits a slot when one of the slot's values is among what the entity reaches in one or two steps (`has_shape`, or `is_a` and
    then `has_shape`). Entities that other statements point at (genera, values) are no candidates. Where no keyword fits, there are no
    entities.
    """
    tails: dict[int, set[int]] = {}
    for head, _, tail in knowledge.triples:
        tails.setdefault(head, set()).add(tail)
    pointed_at = {tail for _, _, tail in knowledge.triples}
    called = {index: _called(knowledge, index) for index in pointed_at}
    wanted: dict[str, set[int]] = {}
    for slot, values in slots.items():
        said = {folded_name(value) for value in values}
        hits = {index for index, (kind, name, aliases) in called.items() if aliases & said or (kind in ("", slot) and name in said)}
        if hits:
            wanted[slot] = hits
    scores: dict[str, int] = {}
    for index, entity in enumerate(knowledge.entities):
        if index in pointed_at or index not in tails or not knowledge.aliases.get(entity, {}).get(language):
            continue
        near = tails[index]
        known = near | {further for step in near for further in tails.get(step, ())}
        scores[entity] = sum(1 for hits in wanted.values() if hits & known)
    best = max(scores.values(), default=0)
    if slots and not best:
        return [], set()
    return [entity for entity, score in scores.items() if score == best], set(wanted)


def _called(knowledge: KnowledgeGraph, index: int) -> tuple[str, str, set[str]]:
    """Return what a node of the graph is called: the slot and the name in its id (`shape:heart`; "" for no slot), and its names."""
    entity = knowledge.entities[index]
    kind, _, name = entity.rpartition(":")
    aliases = {folded_name(alias) for names in knowledge.aliases.get(entity, {}).values() for alias in names}
    return kind if kind in _grammar()["slots"] else "", folded_name(name), aliases


def _distinct(rng: random.Random, possible: int, count: int) -> list[int]:
    """Return `count` different numbers below `possible`, or all of them in random order where there are fewer."""
    if possible <= count:
        return rng.sample(range(possible), possible)
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        chosen[rng.randrange(possible)] = None
    return list(chosen)


def _templates(style: str, language: str) -> list[str]:
    return words()[language]["templates"].get(style) or _grammar()[language]["styled"]


def _phrase(chosen: Mapping[str, str], language: str) -> str:
    """Return what is drawn, with everything said of it: the order of the captions (`core/orchard/captions.py`)."""
    said = {slot: _say(slot, value, language) for slot, value in chosen.items() if slot not in ("pattern", "pattern_colour")}
    others = [slot for slot in said if slot not in _grammar()["slots"]]
    subject = said.get("subject", _grammar()[language]["no_subject"])
    pattern = _pattern(chosen, language)
    if language == "en":
        plain = [pattern] if chosen.get("pattern") == "plain" else []
        character = _given(said, "mood", "trend", *others, "skin", "shape", "material", "ingredient")
        front = [*_given(said, "size"), *plain, *character, subject]
        article = "an" if front[0][:1].lower() in "aeiou" else "a"
        extras = [*([pattern] if pattern and not plain else []), *_given(said, "topper")]
        tail = _given(said, "position", "ground", "sky")
        return " ".join([article, *front, *(["with", " and ".join(extras)] if extras else []), *tail])
    of = _grammar()["zh"]["separators"]["of"]
    place = "".join(_given(said, "sky", "ground", "position"))
    made_of = _given(said, "material", "ingredient")
    looks = "".join([*_given(said, "mood", "trend", *others, "topper"), pattern, *_given(said, "skin", "shape", "size"), *made_of])
    return place + (of if place else "") + looks + (of if looks and subject != words()["zh"]["fruit"] else "") + subject


def _pattern(chosen: Mapping[str, str], language: str) -> str:
    if "pattern" not in chosen:
        return ""
    form = words()[language]["pattern"].get(chosen["pattern"], "{colour} " + chosen["pattern"].replace("{", "{{").replace("}", "}}"))
    colour = chosen.get("pattern_colour", "")
    return form.format(colour=words()[language]["pattern_colour"].get(colour, colour)).strip()


def _say(slot: str, value: str, language: str) -> str:
    if slot == "subject" and value == "fruit":
        return words()[language]["fruit"]
    table = words()[language].get(slot)
    if isinstance(table, dict) and value in table:
        return table[value]
    return _grammar()[language]["fallback"].get(slot, "{value}").replace("{value}", value)


def _given(said: Mapping[str, str], *slots: str) -> list[str]:
    return [said[slot] for slot in slots if slot in said]


def _canonical(slot: str, value: str) -> str:
    """Return the key of a value in the word tables, in whichever language it was written; else the value itself."""
    return _keys().get((slot, folded_name(value)), value)


@lru_cache(maxsize=1)
def _grammar() -> dict[str, Any]:
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _slot_names() -> dict[str, str]:
    return {name: slot for slot, names in _grammar()["slots"].items() for name in names}


@lru_cache(maxsize=1)
def _keys() -> dict[tuple[str, str], str]:
    keys: dict[tuple[str, str], str] = {}
    for slot in _grammar()["slots"]:
        for language in LANGUAGES:
            table = words()[language].get(slot)
            if isinstance(table, dict):
                for key, phrase in table.items():
                    keys[slot, key] = keys[slot, phrase.lower()] = key
        for synonym, key in _grammar()["synonyms"].get(slot, {}).items():
            keys.setdefault((slot, synonym), key)
        if slot == "style":
            keys.update({(slot, key): key for key in words()["en"]["templates"]})
    return keys
