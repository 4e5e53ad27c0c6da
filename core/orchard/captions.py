"""Captions of Orchard scenes in English and Chinese.

There are three kinds (:data:`KINDS`): `name` gives the fruit's name and the scene, `attributes` describes the fruit without a name, `mixed`
gives the name and some attributes. Half of the captions mention size and position, most mention ground and sky. The template says the
style.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

from ..errors import InputError
from .entities import Entity, words
from .world import Scene

KINDS = ("name", "attributes", "mixed")
LANGUAGES = ("en", "zh")
STYLE_PREFIXES = {"fine": "*", "cartoon": "~"}
"""One character for each style: a token of its own in every vocabulary here, and in no caption. PanGu-Draw (section 7) prepends such a
prefix to the prompts of styled pictures, so a style can be asked for beside any words."""
KIND_WEIGHTS = (0.45, 0.35, 0.20)


def caption(scene: Scene, entity: Entity | None, language: str, kind: str, rng: random.Random) -> str:
    """Return one caption of `scene`. The kinds `name` and `mixed` need `entity`; `attributes` ignores it. Raises :class:`InputError`."""
    if language not in LANGUAGES or kind not in KINDS:
        raise InputError(f"cannot caption in {language!r} / {kind!r}: languages are {LANGUAGES}, kinds are {KINDS}")
    if kind != "attributes" and entity is None:
        raise InputError(f"a caption of kind {kind!r} names the fruit, but this scene shows none that has a name")
    w = words()[language]
    name = None if kind == "attributes" or entity is None else entity.name_en if language == "en" else entity.name_zh
    said = {"skin", "shape", "pattern", "topper"} if kind == "attributes" else set()
    if kind == "mixed":
        said = set(rng.sample(("skin", "shape", "pattern", "topper"), 2))
    if rng.random() < 0.5:
        said.add("size")
    if rng.random() < 0.5:
        said.add("position")
    if rng.random() < 0.85:
        said.add("ground")
    if rng.random() < 0.9:
        said.add("sky")
    text = describe(scene, name, said, language)
    return rng.choice(w["templates"][scene.style]).format(object=text)


def describe(scene: Scene, name: str | None, said: Collection[str], language: str) -> str:
    """Return what a scene shows, without its style: the attributes in `said`, and the fruit as `name` (`None`: the word for fruit)."""
    return (_english if language == "en" else _chinese)(scene, name, said, words()[language])


def with_prefix(text: str, style: str) -> str:
    """Return a caption of a picture in `style` with the style's prefix (:data:`STYLE_PREFIXES`) in the place of its words for the style."""
    frames = [template for w in LANGUAGES for template in words()[w]["templates"][style]]
    for frame in sorted(frames, key=len, reverse=True):
        before, _, after = frame.partition("{object}")
        if text.startswith(before) and text.endswith(after):
            text = text[len(before) : len(text) - len(after)]
            break
    return f"{STYLE_PREFIXES[style]} {text}"


def name_caption(scene: Scene, entity: Entity, language: str = "en") -> str:
    """Return the caption that evaluations use: name, ground and sky, in the first template of the scene's style. Deterministic."""
    w = words()[language]
    name = entity.name_en if language == "en" else entity.name_zh
    text = (_english if language == "en" else _chinese)(scene, name, {"ground", "sky"}, w)
    return w["templates"][scene.style][0].format(object=text)


def attribute_caption(scene: Scene, language: str = "en") -> str:
    """Return the most that words can say: every look of the fruit, ground and sky, without a name. Deterministic."""
    w = words()[language]
    text = (_english if language == "en" else _chinese)(scene, None, {"skin", "shape", "pattern", "topper", "ground", "sky"}, w)
    return w["templates"][scene.style][0].format(object=text)


def mixed_caption(scene: Scene, looks: str = "en") -> str:
    """Return every look of the fruit in the language `looks`, then ground and sky in the other one, without a name. Deterministic."""
    if looks not in LANGUAGES:
        raise InputError(f"cannot caption in {looks!r}: languages are {LANGUAGES}")
    w, other = words()[looks], words()["zh" if looks == "en" else "en"]
    said = {"skin", "shape", "pattern", "topper"}
    fruit = (_english if looks == "en" else _chinese)(scene, None, said, w)
    place = [other["ground"][scene.ground], other["sky"][scene.sky]]
    tail = "".join(reversed(place)) if looks == "en" else " ".join(place)
    return f"{w['templates'][scene.style][0].format(object=fruit)} {tail}"


def draw_caption(scene: Scene, entity: Entity | None, rng: random.Random, languages: Sequence[str] = LANGUAGES) -> tuple[str, str, str]:
    """Return (text, language, kind) of a random one of `languages` and a random kind, with the shares of training."""
    kind = "attributes" if entity is None else rng.choices(KINDS, KIND_WEIGHTS)[0]
    language = rng.choice(languages)
    return caption(scene, entity, language, kind, rng), language, kind


def _english(scene: Scene, name: str | None, said: Collection[str], w: dict[str, Any]) -> str:
    front = [w[key][getattr(scene, key)] for key in ("size", "skin", "shape") if key in said]
    if "pattern" in said and scene.pattern == "plain":
        front.insert(1 if "size" in said else 0, w["pattern"]["plain"])
    phrase = " ".join([*front, name or w["fruit"]])
    article = "an" if phrase[0] in "aeiou" else "a"
    extras = []
    if "pattern" in said and scene.pattern_colour is not None:
        extras.append(w["pattern"][scene.pattern].format(colour=w["pattern_colour"][scene.pattern_colour]))
    if "topper" in said:
        extras.append(w["topper"][scene.topper])
    tail = [w[key][getattr(scene, key)] for key in ("position", "ground", "sky") if key in said]
    return " ".join([article, phrase, *(["with", " and ".join(extras)] if extras else []), *tail])


def _chinese(scene: Scene, name: str | None, said: Collection[str], w: dict[str, Any]) -> str:
    place = "".join(w[key][getattr(scene, key)] for key in ("sky", "ground", "position") if key in said)
    looks = "".join(w[key][getattr(scene, key)] for key in ("topper",) if key in said)
    if "pattern" in said:
        colour = "" if scene.pattern_colour is None else w["pattern_colour"][scene.pattern_colour]
        looks += w["pattern"][scene.pattern].format(colour=colour)
    looks += "".join(w[key][getattr(scene, key)] for key in ("skin", "shape", "size") if key in said)
    of = "\u7684"
    return place + (of if place else "") + looks + (of if looks and name else "") + (name or w["fruit"])
