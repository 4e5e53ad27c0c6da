"""New captions for pictures whose own are noise (PanGu-Draw, section 4, dataset construction).

The paper locates subjects with an open-vocabulary detector, lets a vision-language model describe them after templates, and translates
that into Chinese. Here the subjects come from a picture's scene graph where it has one (the Orchard's ground truth), else from the
attribute classifier as detector, and the templates speak both languages, so that nothing has to be translated. What the detector is unsure
of is not said.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DataError, InputError
from ..progress import track
from .filters import write_subset
from .folder import ImageFolder, Item, load_pixels
from ..orchard.captions import LANGUAGES, describe
from ..orchard.entities import Entity, entities, words
from ..orchard.world import ATTRIBUTES, Scene, random_scene

if TYPE_CHECKING:
    from ..scoring.clip_score import ClipScorer
    from ..scoring.judge import Judge

SOURCES = ("scene", "judge")
OLD = ("drop", "keep", "matching")
KIND = "recaption"


@dataclass(frozen=True)
class Seen:
    """What is known of a picture: attributes with how sure each is, in [0, 1], and the entity it shows where that is known."""

    attributes: dict[str, str | None]
    sure: dict[str, float]
    entity: Entity | None = None


@dataclass(frozen=True)
class Recaptioned:
    """How many pictures have new captions, how many old captions were dropped, and where it was all written."""

    pictures: int
    undescribed: int
    dropped: int
    kept: int
    folder: Path
    examples: tuple[str, ...]

    @property
    def report(self) -> str:
        """A few readable lines."""
        lines = [
            f"{self.pictures} pictures with new captions in {self.folder.name}/",
            f"{self.kept} old captions kept, {self.dropped} dropped",
        ]
        if self.undescribed:
            lines.append(f"{self.undescribed} pictures could not be described and keep the captions they had")
        return "\n".join([*lines, *(f"  {text}" for text in self.examples)])


def see_scene(item: Item) -> Seen | None:
    """A picture's own scene graph as `captions.jsonl` holds it; `None` where it has none. Raises :class:`DataError` for a broken one."""
    if item.scene is None:
        return None
    try:
        found = Scene.from_json(item.scene).attributes()
    except TypeError as error:
        raise DataError(f"{item.path.name}: its scene is not one of the Orchard's ({error})") from error
    for name, value in found.items():
        if value not in ATTRIBUTES[name] and not (name == "pattern_colour" and value is None):
            raise DataError(f"{item.path.name}: its scene has {name}={value!r}; expected one of {', '.join(ATTRIBUTES[name])}")
    return Seen(found, dict.fromkeys(found, 1.0), _entity(item))


@torch.no_grad()
def see_judge(item: Item, judge: Judge) -> Seen:
    """What the attribute classifier reads from the picture, with its probabilities."""
    pixels = torch.from_numpy(load_pixels(item.path)).permute(2, 0, 1).float()[None] / 127.5 - 1
    chances = {name: logits[0].softmax(dim=0) for name, logits in judge(pixels).items()}
    found: dict[str, str | None] = {name: ATTRIBUTES[name][int(chance.argmax())] for name, chance in chances.items()}
    sure = {name: float(chance.max()) for name, chance in chances.items()}
    if found["pattern"] == "plain":
        found["pattern_colour"] = None
    sure["pattern"] = min(sure["pattern"], 1.0 if found["pattern_colour"] is None else sure["pattern_colour"])
    return Seen(found, sure, _entity(item))


def describe_seen(seen: Seen, language: str, least: float, rng: random.Random) -> str:
    """A caption in `language` of everything that is at least `least` sure; the style is in the template, a neutral one where that is
    unsure. With a known entity, its name stands for its looks in half of the captions."""
    said = {name for name in ("shape", "skin", "pattern", "topper", "ground", "sky", "size", "position") if seen.sure[name] >= least}
    name = None
    if seen.entity is not None and rng.random() < 0.5:
        name = seen.entity.name_en if language == "en" else seen.entity.name_zh
        said -= {"shape", "skin", "pattern", "topper"}
    # A scene needs every field; what is not said is never looked at.
    scene = random_scene(rng, **{key: value for key, value in seen.attributes.items() if value is not None})
    text = describe(scene, name, said, language)
    templates = words()[language]["templates"]
    frame = rng.choice(templates[scene.style]) if seen.sure["style"] >= least else templates["fine"][_NEUTRAL[language]]
    return frame.format(object=text)


_NEUTRAL = {"en": 2, "zh": 1}  # "a picture of", in both languages


def recaption_folder(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    source: str = "scene",
    languages: Sequence[str] = LANGUAGES,
    each: int = 1,
    least: float = 0.8,
    old: str = "drop",
    min_clip: float = 0.2,
    seed: int = 0,
    judge: Judge | None = None,
    scorer: ClipScorer | None = None,
) -> Recaptioned:
    """Write the image folder `root` anew as `out`, with `each` (1..8) captions a language of what is on each picture.

    `source` is `scene` (its scene graph; the judge where it has none and one is given) or `judge`. `old` captions are dropped, kept, or
    kept where they are `matching`: `scorer` gives them a CLIP score of at least `min_clip`. Pictures are linked, nothing in `root` changes.
    Raises :class:`InputError` or :class:`DataError`.
    """
    if source not in SOURCES or old not in OLD or not languages or not set(languages) <= set(LANGUAGES):
        raise InputError(f"source={source!r}, old={old!r}, languages={languages!r}: expected {SOURCES}, {OLD} and some of {LANGUAGES}")
    if not 1 <= each <= 8 or not 0 <= least <= 1 or not -1 <= min_clip <= 1:
        raise InputError(f"each={each}, least={least}, min_clip={min_clip}: expected 1 to 8, 0 to 1 and -1 to 1")
    if (source == "judge" and judge is None) or (old == "matching" and scorer is None):
        raise InputError("source judge needs an attribute classifier, and old captions are matched with a scorer: name them")
    folder = ImageFolder(root, captions=False)
    written: dict[Path, list[dict[str, str]]] = {}
    counts = {"new": 0, "kept": 0, "dropped": 0}
    examples: list[str] = []
    for index, item in enumerate(track(folder.items, len(folder), "recaptioning", "image")):
        rng = random.Random(f"recaption/{seed}/{index}")
        seen = see_scene(item) if source == "scene" else None
        if seen is None and judge is not None:
            seen = see_judge(item, judge)
        if seen is None:
            written[item.path] = [asdict(caption) for caption in item.captions]
            continue
        texts = [(describe_seen(seen, language, least, rng), language) for language in languages for _ in range(each)]
        fresh = [{"text": text, "language": language, "kind": KIND} for text, language in dict.fromkeys(texts)]
        stay = [asdict(caption) for caption in _staying(item, old, scorer, min_clip)]
        counts["new"] += 1
        counts["kept"] += len(stay)
        counts["dropped"] += len(item.captions) - len(stay)
        examples += [row["text"] for row in fresh] if len(examples) < 4 else []
        written[item.path] = [*fresh, *stay]
    target = write_subset(folder.root, folder.items, out, lambda item: written[item.path])
    missing = len(folder) - counts["new"]
    return Recaptioned(counts["new"], missing, counts["dropped"], counts["kept"], target, tuple(examples))


def _staying(item: Item, old: str, scorer: ClipScorer | None, min_clip: float) -> Iterable[Any]:
    if old != "matching" or scorer is None or not item.captions:
        return item.captions if old == "keep" else ()
    pixels = torch.from_numpy(load_pixels(item.path)).permute(2, 0, 1).float()[None] / 127.5 - 1
    scores = scorer.texts([caption.text for caption in item.captions]) @ scorer.images(pixels)[0]
    return [caption for caption, score in zip(item.captions, scores.tolist(), strict=True) if score >= min_clip]


def _entity(item: Item) -> Entity | None:
    return next((entity for entity in entities() if entity.id == item.entity), None) if item.entity else None
