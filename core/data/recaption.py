"""New captions for pictures whose own captions are noise (PanGu-Draw, section 5, "Dataset Construction").

The paper locates subjects with an open-vocabulary detector, lets a vision-language model describe them with templates, and translates the
descriptions into Chinese. Here the subjects come from a picture's scene graph where it has one (the Orchard's ground truth), else from the
attribute classifier. The templates exist in both languages, so nothing is translated. What the classifier is unsure of is not said.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import DataError, InputError
from ..files import check_writable
from ..progress import track
from .filters import check_target, write_subset
from .folder import ImageFolder, say_passed_over
from .pictures import load_pixels, to_tensor
from .rows import Caption, Item
from ..orchard.captions import LANGUAGES, describe
from ..orchard.entities import Entity, entities, words
from ..orchard.recognise import shows_orchard
from ..orchard.world import ATTRIBUTES, Scene, random_scene

if TYPE_CHECKING:
    from ..scoring.clip_score import ClipScorer
    from ..scoring.judge import Judge

log = logging.getLogger("rapiddraw")
SOURCES = ("scene", "judge")
OLD = ("drop", "keep", "matching")
KIND = "recaption"


@dataclass(frozen=True)
class Captioning:
    """How a folder gets new captions.

    `source` is `scene` (a picture's scene graph; the judge where it has none and a judge is given) or `judge`. Each picture gets `each` (1
    to 8) captions in each of `languages`, of what its source is at least `least` sure of. `old` captions are dropped (`drop`), kept
    (`keep`), or kept where they match (`matching`): their CLIP score is at least `min_clip`. `seed` decides which templates are used.
    """

    source: str = "scene"
    languages: Sequence[str] = LANGUAGES
    each: int = 1
    least: float = 0.8
    old: str = "drop"
    min_clip: float = 0.2
    seed: int = 0

    def check(self) -> None:
        """Raise :class:`InputError` for an unknown choice or a number out of range."""
        if self.source not in SOURCES or self.old not in OLD or not self.languages or not set(self.languages) <= set(LANGUAGES):
            raise InputError(
                f"source={self.source!r}, old={self.old!r}, languages={self.languages!r}: expected {SOURCES}, {OLD} and some of {LANGUAGES}"
            )
        if not 1 <= self.each <= 8 or not 0 <= self.least <= 1 or not -1 <= self.min_clip <= 1:
            raise InputError(f"each={self.each}, least={self.least}, min_clip={self.min_clip}: expected 1 to 8, 0 to 1, -1 to 1")


@dataclass(frozen=True)
class Seen:
    """What is known of a picture: its attributes, how sure each of them is (0 to 1), and the entity that it shows, where known."""

    attributes: dict[str, str | None]
    sure: dict[str, float]
    entity: Entity | None = None


@dataclass(frozen=True)
class Recaptioned:
    """The result of :func:`recaption_folder`.

    `pictures` have new captions, `undescribed` could not be described. `dropped` and `kept` count old captions of pictures with new ones.
    `folder` is what was written, `passed_over` names pictures of kinds that are not read.
    """

    pictures: int
    undescribed: int
    dropped: int
    kept: int
    folder: Path
    examples: tuple[str, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def report(self) -> str:
        """A few readable lines."""
        lines = [
            f"{self.pictures} pictures with new captions in {self.folder.name}/",
            f"{self.kept} old captions kept, {self.dropped} dropped",
        ]
        if self.undescribed:
            lines.append(f"{self.undescribed} pictures could not be described and keep the captions they had")
        if self.passed_over:
            lines.append(say_passed_over(self.passed_over))
        return "\n".join([*lines, *(f"  {text}" for text in self.examples)])


def see_scene(item: Item) -> Seen | None:
    """Return a picture's own scene graph, as `captions.jsonl` holds it; `None` where it has none. Raises :class:`DataError` for a broken
    one.
    """
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
def see_judge(item: Item, judge: Judge) -> Seen | None:
    """Return the attributes that the classifier reads from a picture, with their probabilities.

    Returns `None` for a picture that does not show the Orchard. Raises :class:`DataError` for a file that cannot be read.
    """
    picture = load_pixels(item.path)
    if not shows_orchard(picture):
        return None
    pixels = to_tensor(picture)[None]
    chances = {name: logits[0].softmax(dim=0) for name, logits in judge(pixels).items()}
    found: dict[str, str | None] = {name: ATTRIBUTES[name][int(chance.argmax())] for name, chance in chances.items()}
    sure = {name: float(chance.max()) for name, chance in chances.items()}
    if found["pattern"] == "plain":
        found["pattern_colour"] = None
    sure["pattern"] = min(sure["pattern"], 1.0 if found["pattern_colour"] is None else sure["pattern_colour"])
    return Seen(found, sure, _entity(item))


def describe_seen(seen: Seen, language: str, least: float, rng: random.Random) -> str:
    """Return a caption in `language` of everything that is at least `least` sure.

    The style is in the template; a neutral template is used where the style is unsure. The name of a known entity stands for its looks in
    half of the captions.
    """
    said = {name for name in ("shape", "skin", "pattern", "topper", "ground", "sky", "size", "position") if seen.sure[name] >= least}
    name = None
    if seen.entity is not None and rng.random() < 0.5:
        name = seen.entity.name_en if language == "en" else seen.entity.name_zh
        said -= {"shape", "skin", "pattern", "topper"}
    # A scene needs every field; fields that are not said are not read.
    scene = random_scene(rng, **{key: value for key, value in seen.attributes.items() if value is not None})
    text = describe(scene, name, said, language)
    templates = words()[language]["templates"]
    frame = rng.choice(templates[scene.style]) if seen.sure["style"] >= least else templates["fine"][_NEUTRAL[language]]
    return frame.format(object=text)


_NEUTRAL = {"en": 2, "zh": 1}  # "a picture of", in both languages


def recaption_folder(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    how: Captioning | None = None,
    judge: Judge | None = None,
    scorer: ClipScorer | None = None,
) -> Recaptioned:
    """Write the image folder `root` to `out` with new captions of what each picture shows. Pictures are linked; `root` stays as it is.

    A picture that cannot be described keeps its captions, whatever `how.old` says. That is so where it shows something else than the
    Orchard, where nothing about it is sure enough, and where its file is damaged. `judge` reads the pictures, `scorer` gives the CLIP
    scores for `matching`. Raises :class:`InputError` or :class:`DataError`.
    """
    how = how or Captioning()
    how.check()
    if (how.source == "judge" and judge is None) or (how.old == "matching" and scorer is None):
        raise InputError("source judge needs an attribute classifier, and the old captions that match need a scorer; choose them")
    check_writable(Path(out))
    folder = ImageFolder(root, captions=False)
    check_target(folder.root, out)
    written: dict[Path, list[dict[str, str]]] = {}
    counts = {"new": 0, "kept": 0, "dropped": 0}
    examples: list[str] = []
    for index, item in enumerate(track(folder.items, len(folder), "recaptioning", "image")):
        rng = random.Random(f"recaption/{how.seed}/{index}")
        fresh, stay = _recaptioned(item, how, rng, judge, scorer)
        counts["new"] += bool(fresh)
        counts["kept"] += len(stay) if fresh else 0
        counts["dropped"] += len(item.captions) - len(stay)
        examples += [row["text"] for row in fresh] if len(examples) < 4 else []
        written[item.path] = [*fresh, *(asdict(caption) for caption in stay)]
    target = write_subset(folder.root, folder.items, out, lambda item: written[item.path])
    missing = len(folder) - counts["new"]
    return Recaptioned(counts["new"], missing, counts["dropped"], counts["kept"], target, tuple(examples), folder.passed_over)


def _recaptioned(
    item: Item, how: Captioning, rng: random.Random, judge: Judge | None, scorer: ClipScorer | None
) -> tuple[list[dict[str, str]], Sequence[Caption]]:
    """Return a picture's new captions, none where it cannot be described, and the old ones that stay."""
    seen = see_scene(item) if how.source == "scene" else None
    try:
        if seen is None and judge is not None:
            seen = see_judge(item, judge)
        if seen is None or max(seen.sure.values()) < how.least:
            return [], item.captions
        stay = _staying(item, how, scorer)
    except DataError as error:
        log.warning("not described: %s", error)
        return [], item.captions
    texts = [(describe_seen(seen, language, how.least, rng), language) for language in how.languages for _ in range(how.each)]
    return [{"text": text, "language": language, "kind": KIND} for text, language in dict.fromkeys(texts)], stay


def _staying(item: Item, how: Captioning, scorer: ClipScorer | None) -> Sequence[Caption]:
    if how.old != "matching" or scorer is None or not item.captions:
        return item.captions if how.old == "keep" else ()
    pixels = to_tensor(load_pixels(item.path))[None]
    scores = scorer.texts([caption.text for caption in item.captions]) @ scorer.images(pixels)[0]
    return [caption for caption, score in zip(item.captions, scores.tolist(), strict=True) if score >= how.min_clip]


def _entity(item: Item) -> Entity | None:
    return next((entity for entity in entities() if entity.id == item.entity), None) if item.entity else None
