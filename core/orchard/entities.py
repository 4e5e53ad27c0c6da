"""The named fruits of the Orchard and what the knowledge graph says of them.

`entities.json` is the fixed list (a test holds its hash); `python -m rapiddraw.core.orchard.entities` writes it again from the same seed.
320 fruits are *seen* (named in at least 40 captions), 80 *rare* (named in 3), 80 *unseen* (named in the graph only).
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .world import COLOURS, GROUNDS, PATTERN_COLOURS, PATTERNS, SHAPES, TOPPERS, Scene, random_scene

_HERE = Path(__file__).parent
SPLITS = {"seen": 320, "rare": 80, "unseen": 80}
_SEED = 20240


@dataclass(frozen=True)
class Entity:
    """One named fruit. `genus` is `None` where the graph states the shape directly; `split` is `seen`, `rare` or `unseen`."""

    id: str
    name_en: str
    name_zh: str
    shape: str
    skin: str
    pattern: str
    pattern_colour: str | None
    topper: str
    ground: str
    genus: str | None
    split: str

    @property
    def aliases(self) -> dict[str, list[str]]:
        """Every name by language; English has its plural as well."""
        return {"en": [self.name_en, self.name_en + "s"], "zh": [self.name_zh]}

    def looks(self) -> dict[str, str | None]:
        """The attributes that belong to the fruit, as :func:`~.world.random_scene` takes them."""
        return {
            "shape": self.shape,
            "skin": self.skin,
            "pattern": self.pattern,
            "pattern_colour": self.pattern_colour,
            "topper": self.topper,
        }

    def scene(self, rng: random.Random, **fixed: str | None) -> Scene:
        """Return a random scene that shows this fruit. It stands on its own kind of ground in half of the scenes, else on a random one."""
        if "ground" not in fixed and rng.random() < 0.5:
            fixed["ground"] = self.ground
        return random_scene(rng, **{**self.looks(), **fixed})


@lru_cache(maxsize=1)
def words() -> dict[str, Any]:
    """Return the words of both languages, from `words.json`."""
    return json.loads((_HERE / "words.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def entities() -> tuple[Entity, ...]:
    """Return all 480 fruits: seen first, then rare, then unseen."""
    return tuple(Entity(**row) for row in json.loads((_HERE / "entities.json").read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def triples() -> tuple[tuple[str, str, str], ...]:
    """Return the knowledge graph as (head, relation, tail).

    Seven fruits in ten have their shape in two steps (fruit `is_a` genus, genus `has_shape` shape). Skin and pattern colours are separate
    nodes although they share a word. `discovered_by`, `ripens_in` and `region` say nothing that a picture could show.
    """
    rng = random.Random(_SEED + 1)
    rows: list[tuple[str, str, str]] = []
    for index, genus in enumerate(words()["genera"]):
        rows.append((f"genus:{genus}", "has_shape", f"shape:{_genus_shape(index)}"))
        rows.append((f"genus:{genus}", "family", f"family:{index % 3}"))
    for e in entities():
        if e.genus is None:
            rows.append((e.id, "has_shape", f"shape:{e.shape}"))
        else:
            rows.append((e.id, "is_a", f"genus:{e.genus}"))
        rows.append((e.id, "skin_colour", f"skin:{e.skin}"))
        rows.append((e.id, "has_pattern", f"pattern:{e.pattern}"))
        if e.pattern_colour is not None:
            rows.append((e.id, "pattern_colour", f"pattern_colour:{e.pattern_colour}"))
        rows.append((e.id, "has_topper", f"topper:{e.topper}"))
        rows.append((e.id, "grows_on", f"ground:{e.ground}"))
        if rng.random() < 0.3:
            rows.append((e.id, "discovered_by", f"person:{rng.randrange(20)}"))
        if rng.random() < 0.3:
            rows.append((e.id, "ripens_in", f"month:{rng.randrange(12)}"))
        if rng.random() < 0.3:
            rows.append((e.id, "region", f"region:{rng.randrange(8)}"))
    return tuple(rows)


def _genus_shape(index: int) -> str:
    return SHAPES[index % len(SHAPES)]


def build_entities() -> list[Entity]:
    """Return the fixed list: names that share no word with an attribute, looks that cover the world.

    Half of the unseen fruits look like a seen one under another name. Half have a combination of looks that no other fruit has.
    """
    rng = random.Random(_SEED)
    lexicon = words()
    total = sum(SPLITS.values())
    english, chinese = _names(rng, lexicon["names"], total)
    looks: list[tuple[str, str, str, str | None, str]] = []
    taken: set[tuple[str, str, str, str | None, str]] = set()
    named = SPLITS["seen"] + SPLITS["rare"]
    for index in range(total):
        if index >= named and index % 2 == 0:
            looks.append(rng.choice(looks[: SPLITS["seen"]]))
            continue
        while True:
            skin, pattern = rng.choice(COLOURS), rng.choice(PATTERNS)
            colour = None if pattern == "plain" else rng.choice([c for c in PATTERN_COLOURS if c != skin])
            look = (rng.choice(SHAPES), skin, pattern, colour, rng.choice(TOPPERS))
            if look not in taken:
                break
        taken.add(look)
        looks.append(look)
    genera = lexicon["genera"]
    splits = [name for name, count in SPLITS.items() for _ in range(count)]
    rows = []
    for index, (shape, skin, pattern, colour, topper) in enumerate(looks):
        fitting = [g for i, g in enumerate(genera) if _genus_shape(i) == shape]
        rows.append(
            Entity(
                id=f"fruit:{english[index]}",
                name_en=english[index],
                name_zh=chinese[index],
                shape=shape,
                skin=skin,
                pattern=pattern,
                pattern_colour=colour,
                topper=topper,
                ground=rng.choice(GROUNDS),
                genus=rng.choice(fitting) if rng.random() < 0.7 else None,
                split=splits[index],
            )
        )
    return rows


def _names(rng: random.Random, parts: dict[str, Any], total: int) -> tuple[list[str], list[str]]:
    english: set[str] = set()
    chinese: set[str] = set()
    while len(english) < total:
        name = "".join(rng.sample(parts["syllables"], rng.choice((2, 3, 3))))
        if not any(name in other or other in name for other in english):
            english.add(name)
    while len(chinese) < total:
        name = "".join(rng.sample(parts["characters"], rng.choice((2, 3, 3))))
        if not any(name in other or other in name for other in chinese):
            chinese.add(name)
    shuffled = sorted(english), sorted(chinese)
    for names in shuffled:
        rng.shuffle(names)
    return shuffled


if __name__ == "__main__":
    text = json.dumps([asdict(e) for e in build_entities()], ensure_ascii=False, indent=0)
    (_HERE / "entities.json").write_text(text + "\n", encoding="utf-8")
