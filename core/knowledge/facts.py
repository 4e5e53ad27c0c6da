"""Facts as a user types them: lines "name, relation, value", matched with what a graph already knows.

A line has three parts, separated by commas (also full-width ones) or by tabs. `#` starts a comment line. The relation `alias@zh` gives the
thing one more name in that language. The name is an id or a name of the graph, else a new thing; relations and values are the graph's own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import InputError, KnowledgeError
from ..language import folded_name, plain_name
from .graph import KnowledgeGraph, Triple, build_graph
from .linking import MIN_CJK, MIN_LATIN, is_chinese

MAX_TEXT = 200_000
MAX_NEW = 2_000
_SHOWN = 12
_SEPARATOR = re.compile("[,\uff0c]")
_ALIAS = re.compile(r"alias(?:es)?\s*@\s*(\S+)", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """Facts that were matched with a graph of n entities.

    `new` are the ids of new entities; entity n + i is `new[i]`. `triples` (head, relation, tail) index entities and the graph's relations.
    `names` are (id, language, name).
    """

    new: tuple[str, ...]
    triples: tuple[Triple, ...]
    names: tuple[tuple[str, str, str], ...]


def read_facts(text: str, graph: KnowledgeGraph) -> Facts:
    """Return the facts of `text` (see the module's head).

    Raises :class:`InputError` for a text without facts, and :class:`KnowledgeError` for lines that are malformed, or whose relation or
    value `graph` does not know; the message names the lines and the nearest things that are known.
    """
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise InputError(f"facts: at most {MAX_TEXT} characters of lines such as 'blumo, skin_colour, red'")
    rows = [(number, *_parts(line, number)) for number, line in enumerate(text.splitlines(), 1) if _is_fact(line)]
    if not rows:
        raise InputError("no facts are given; write one on each line, as name, relation, value: 'blumo, skin_colour, red'")
    lexicon = Lexicon(graph)
    new = tuple(dict.fromkeys(name for _, name, _, _ in rows if lexicon.entity(name) is None))
    if len(new) > MAX_NEW:
        raise KnowledgeError(f"facts: {len(new)} new names, at most {MAX_NEW} at a time; for more, train a graph (Train Knowledge Graph)")
    place = {name: len(graph.entities) + number for number, name in enumerate(new)}
    by_fold = {folded_name(name): position for name, position in place.items()}

    triples: dict[Triple, None] = {}
    names: list[tuple[str, str, str]] = [(name, language_of(name), name) for name in new]
    problems: list[str] = []
    for number, name, relation, value in rows:
        head = lexicon.entity(name)
        head = place[name] if head is None else head
        alias = _ALIAS.fullmatch(relation)
        if alias:
            names.append((name if head >= len(graph.entities) else graph.entities[head], alias[1], value))
            continue
        try:
            kind = lexicon.relation(relation)
            tail = lexicon.value(value, kind, by_fold)
        except KnowledgeError as error:
            problems.append(f"line {number}: {error}")
            continue
        if head == tail:
            problems.append(f"line {number}: {name!r} is said of itself")
        triples[head, kind, tail] = None
    if problems:
        more = f" ({len(problems) - 5} more lines are wrong)" if len(problems) > 5 else ""
        raise KnowledgeError("facts, " + "; ".join(problems[:5]) + more)
    _check_names(names)
    _check_said(new, place, triples)
    return Facts(new, tuple(triples), tuple(names))


def language_of(name: str) -> str:
    """Return the language code that a name is kept under: `zh` for Chinese characters, `en` for ASCII letters, else `und`."""
    return "zh" if is_chinese(name) else "en" if name.isascii() else "und"


class Lexicon:
    """What a graph's entities and relations are called: by id, by name, and by the part of an id after its last colon (`red` for
    `skin:red`)."""

    def __init__(self, graph: KnowledgeGraph) -> None:
        self.graph = graph

    def entity(self, text: str) -> int | None:
        """Return the position of the entity with this id or name; `None` where there is none."""
        return self.graph.index.get(text, self._named.get(folded_name(text)))

    def require(self, text: str) -> int:
        """Return the position of an entity by id, name or label. Raises :class:`KnowledgeError` with the nearest ones."""
        text = plain_name(text)
        found = self.entity(text)
        labelled = self._labelled(range(len(self.graph.entities)), text) if found is None else [found]
        if len(labelled) == 1:
            return labelled[0]
        if labelled:
            raise KnowledgeError(f"{text!r} may be {_listed(self.graph.entities[i] for i in labelled)}; give one of these ids")
        near = _nearest(text, [*self._named, *self.graph.entities])
        raise KnowledgeError(f"the graph knows nothing named {text!r}" + (f"; near this there is {near}" if near else ""))

    def relation(self, text: str) -> int:
        """Return the number of a relation, whose words may be joined by spaces, hyphens or underscores."""
        found = self._relations.get(_joined(text))
        if found is None or found not in self.tails:
            known = [name for number, name in enumerate(self.graph.relations) if number in self.tails]
            raise KnowledgeError(f"the graph has no facts of a relation {text!r}; {_near_or_all(text, known)}")
        return found

    def value(self, text: str, relation: int, new: dict[str, int]) -> int:
        """Return what `text` means as a value of `relation`: an entity of the graph, or one of the `new` ones (folded name: position)."""
        known = self.graph.index.get(text)
        if known is not None:
            return known
        among = self.tails[relation]
        fitting = [position for position in among if position == self._named.get(folded_name(text))] or self._labelled(among, text)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise KnowledgeError(f"{text!r} may be {_listed(self.graph.entities[i] for i in fitting)}; give one of these ids")
        named = new.get(folded_name(text), self._named.get(folded_name(text)))
        if named is None:
            shown = [_label(self.graph.entities[position]) for position in among]
            raise KnowledgeError(f"{self.graph.relations[relation]} has no value {text!r}; {_near_or_all(text, shown)}")
        return named

    @cached_property
    def tails(self) -> dict[int, list[int]]:
        """The distinct values of each relation that has facts, in the order of the facts."""
        found: dict[int, dict[int, None]] = {}
        for _, relation, tail in self.graph.triples:
            found.setdefault(relation, {})[tail] = None
        return {relation: list(values) for relation, values in found.items()}

    @cached_property
    def _named(self) -> dict[str, int]:
        named: dict[str, int] = {}
        for entity, by in self.graph.aliases.items():
            for name in (name for names in by.values() for name in names):
                named.setdefault(folded_name(name), self.graph.index[entity])
        return named

    @cached_property
    def _relations(self) -> dict[str, int]:
        return {_joined(name): number for number, name in enumerate(self.graph.relations)}

    def _labelled(self, among: Iterable[int], text: str) -> list[int]:
        wanted = _joined(text)
        return [position for position in among if _joined(_label(self.graph.entities[position])) == wanted]


def _is_fact(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _parts(line: str, number: int) -> tuple[str, str, str]:
    cells = [plain_name(cell) for cell in (line.split("\t") if "\t" in line else _SEPARATOR.split(line))]
    if len(cells) != 3 or not all(cells):
        hint = "; where a name holds a comma, separate the parts by tabs" if len(cells) > 3 else ""
        raise KnowledgeError(f"facts, line {number}: expected three parts, name, relation, value, found {line.strip()[:60]!r}{hint}")
    return cells[0], cells[1], cells[2]


def _check_names(names: Sequence[tuple[str, str, str]]) -> None:
    """Raise :class:`KnowledgeError` for a name that a graph refuses, or that is too short to be found in a prompt."""
    build_graph((), names, "facts")
    for _, _, name in names:
        least = MIN_CJK if is_chinese(name) else MIN_LATIN
        if len(name) < least:
            raise KnowledgeError(f"facts: the name {name!r} is too short to be found in a prompt; give one of {least} characters or more")


def _check_said(new: Sequence[str], place: dict[str, int], triples: Iterable[Triple]) -> None:
    """Raise :class:`KnowledgeError` for a new thing whose facts lead, over other new things, to nothing that the graph knows."""
    first = min(place.values(), default=0)
    neighbours: dict[int, set[int]] = {position: set() for position in place.values()}
    for head, _, tail in triples:
        for one, other in ((head, tail), (tail, head)):
            if one in neighbours:
                neighbours[one].add(other)
    reached = {one for one, others in neighbours.items() if any(other < first for other in others)}
    waiting = list(reached)
    while waiting:
        fresh = {other for other in neighbours[waiting.pop()] if other >= first} - reached
        reached |= fresh
        waiting += fresh
    lost = [name for name in new if place[name] not in reached]
    if lost:
        raise KnowledgeError(f"facts: nothing is said of {_listed(lost)} that leads to what the graph knows; add a fact with a known value")


def _label(entity: str) -> str:
    return entity.rpartition(":")[2]


def _joined(text: str) -> str:
    return re.sub(r"[\s_-]+", "_", folded_name(text))


def _nearest(text: str, known: Sequence[str]) -> str:
    return ", ".join(difflib.get_close_matches(plain_name(text), known[:10_000], n=3, cutoff=0.5))


def _near_or_all(text: str, known: Sequence[str]) -> str:
    near = _nearest(text, known)
    listed = f"it has {_listed(known)}"
    return f"the nearest are {near}; {listed}" if near else listed


def _listed(names: Iterable[str]) -> str:
    whole = list(names)
    return ", ".join(whole[:_SHOWN]) + (f" and {len(whole) - _SHOWN} more" if len(whole) > _SHOWN else "")
