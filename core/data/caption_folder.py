"""Captions for a user's pictures: by a captioning model that the user has, else by a template around a subject. Written to a new folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InputError
from ..files import check_writable
from ..language import is_cjk
from ..progress import track
from ..text.captioner import Captioner
from ..text.templates import OBJECT, apply_template
from .card import Card, data_card
from .filters import check_target, write_subset
from .pictures import load_pixels
from .rows import Item

KIND = "caption"
OLD = ("keep", "drop", "only_missing")
MAX_WORDS = 400
_NUMBERED = re.compile(r"^(img|dsc|dscf|pict?|image|photo|screenshot)?[\s_-]*\d*$", re.IGNORECASE)


@dataclass(frozen=True)
class Captions:
    """How pictures are captioned.

    `template` has `{object}` where the subject goes. The subject is what a model says, else `subject`, else the words of the picture's
    folder or file. `old` captions: `keep` beside the new one, `drop`, or `only_missing`: pictures that have captions are left alone.
    Pictures whose shorter side is below `least` pixels are left out, and with `copies` all but the first of equal ones.
    """

    template: str = OBJECT
    subject: str = ""
    old: str = "only_missing"
    least: int = 0
    copies: bool = True

    def check(self) -> None:
        """Raise :class:`InputError` for an unknown choice, a template without `{object}` or texts that are too long."""
        if self.old not in OLD:
            raise InputError(f"old_captions={self.old!r}: expected {', '.join(OLD)}")
        if max(len(self.template), len(self.subject)) > MAX_WORDS:
            raise InputError(f"template and subject have at most {MAX_WORDS} characters")
        apply_template(self.template, "x")
        if isinstance(self.least, bool) or not isinstance(self.least, int) or not 0 <= self.least <= 8192:
            raise InputError(f"min_side={self.least!r}: give a whole number from 0 to 8192")


@dataclass(frozen=True)
class Captioned:
    """The written folder, its data card, and the new caption of each picture by its file ("" where it kept its own)."""

    folder: Path
    card: Card
    texts: tuple[tuple[Path, str], ...]

    @property
    def report(self) -> str:
        """The data card, then a line for each picture: its file and its new caption."""
        fresh = [(path.name, text) for path, text in self.texts if text]
        lines = [self.card.text(), f"{len(fresh)} new captions in {self.folder.name}/captions.jsonl; correct them there"]
        return "\n".join([*lines, *(f"  {name}: {text}" for name, text in fresh)])


def caption_folder(root: Path, out: Path, how: Captions, model: Captioner | None = None) -> Captioned:
    """Write the usable pictures of `root` into the folder `out` with captions, as links; `root` stays as it is.

    Raises :class:`InputError` for settings out of range, and :class:`DataError` for a folder without pictures.
    """
    how.check()
    check_writable(out)
    check_target(root, out)
    card = data_card(root, how.least, copies=how.copies)
    texts: dict[Path, str] = {}
    for item in track(card.usable, len(card.usable), "captioning", "picture"):
        if how.old != "only_missing" or not item.captions:
            texts[item.path] = apply_template(how.template, _subject(item, root, how, model))

    def written(item: Item) -> list[dict[str, str]]:
        old = [asdict(caption) for caption in item.captions] if how.old != "drop" else []
        text = texts.get(item.path)
        return [*([{"text": text, "language": "zh" if any(map(is_cjk, text)) else "en", "kind": KIND}] if text else []), *old]

    folder = write_subset(root, card.usable, out, written)
    return Captioned(folder, card, tuple((item.path, texts.get(item.path, "")) for item in card.usable))


def words_of(path: Path, root: Path) -> str:
    """Return what a picture's place says of it: the name of its folder inside `root`, else the words of its file, "" for mere numbers.

    The folder `images` of a dataset says nothing.
    """
    inside: Sequence[str] = path.resolve().relative_to(root.resolve()).parts[:-1]
    named = inside[-1] if inside and inside[-1].lower() not in ("images", "pictures", "photos") else path.stem
    text = " ".join(re.sub(r"[_\W]+", " ", re.sub(r"\d{2,}", " ", named)).split())
    return "" if _NUMBERED.fullmatch(text) else text


def _subject(item: Item, root: Path, how: Captions, model: Captioner | None) -> str:
    said = model.captions([load_pixels(item.path)])[0] if model is not None else ""
    return said or how.subject.strip() or words_of(item.path, root)
