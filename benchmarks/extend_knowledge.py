"""Fruits drawn from their typed facts alone, without training: against trained vectors, with a fact fewer, and with one fact changed.

    python -m rapiddraw bench extend-knowledge

The 80 fruits that no caption names are taken out of the graph and come back through Extend Knowledge Graph, by their facts. Their pictures
are compared with those of the trained vectors from the same noise. The vectors of values (red, round) were trained with these fruits in the
graph. For edits, one fact of a seen fruit is changed, and the same prompt is drawn from the same noise with both graphs. Accuracy is over
shape, skin, pattern and topper, as the judge reads them.
"""

from __future__ import annotations

import argparse
import random
from typing import TYPE_CHECKING, Any

from . import common
from .checks import CHOSEN, EARLIER, Basis, Expectation, at_least, at_most

if TYPE_CHECKING:
    from ..core.orchard.entities import Entity

CFG, STEPS = 3.0, 20
FRUIT_RELATIONS = {"skin": "skin_colour", "pattern": "has_pattern", "topper": "has_topper", "shape": "has_shape"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench extend-knowledge`."""
    parser.add_argument("--count", type=int, default=128, help="pictures of unseen fruits for each kind of vector (128)")
    parser.add_argument("--edits", type=int, default=64, help="seen fruits with one fact changed (64)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis, edits = Basis(args.count), Basis(args.edits, "edits")
    return {
        "loss": Expectation("accuracy that vectors from facts lose to trained vectors", at_most(0.1), EARLIER, basis),
        "gain": Expectation("accuracy that vectors from facts add to no graph", at_least(0.3), EARLIER, basis),
        "kept": Expectation("accuracy that a missing fact costs the facts that are left", at_most(0.1), CHOSEN, basis),
        "follows": Expectation("share of edits whose new value is seen in the picture", at_least(0.5), CHOSEN, edits),
        "stays": Expectation("accuracy that an edit costs the other attributes", at_most(0.1), CHOSEN, edits),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from ..core.knowledge.extend import extend_graph
    from ..core.metrics.bootstrap import difference, mean
    from ..core.metrics.orchard import FRUIT, Parts, accuracy_by_picture, evaluation_scenes, prompts_for, sample_pictures
    from ..core.orchard.entities import entities
    from ..core.scoring.judge import judge_pictures
    from .shipped import sampling, shipped_graph, shipped_judge, shipped_parts

    wanted, graph, plain, judge = expectations(args), shipped_graph(), shipped_parts(knowledge=False), shipped_judge()
    host = plain.host
    unseen = [entity for entity in entities() if entity.split == "unseen"]
    rest = without(graph, {entity.id for entity in unseen})
    rng = random.Random("extend-knowledge")
    missing = {entity.id: rng.choice(FRUIT) for entity in unseen}

    def drawn(knowledge: Any, prompts: list[str], seed: int = 0) -> Any:
        """The judge's readings of one picture a prompt."""
        clip = plain.clip if knowledge is None else host.knowledge.attach(plain.clip, knowledge, 1.0)
        pictures = sample_pictures(Parts(host, plain.model, clip, plain.vae), prompts, sampling(host, CFG, STEPS), seed=seed)
        return judge_pictures(judge, pictures)[0]

    pairs = evaluation_scenes("unseen", args.count)
    prompts, scenes = prompts_for(pairs), [scene for _, scene in pairs]
    graphs = {
        "trained vectors": graph,
        "facts alone": extend_graph(rest, "\n".join(line for entity in unseen for line in facts_of(graph, entity))).graph,
        "one fact fewer": extend_graph(
            rest, "\n".join(line for entity in unseen for line in facts_of(graph, entity, without=missing[entity.id]))
        ).graph,
        "no graph": None,
    }
    accuracy, kept, rows = {}, {}, []
    for name, knowledge in graphs.items():
        read = drawn(knowledge, prompts)
        accuracy[name] = accuracy_by_picture(read, scenes, FRUIT)
        left = [tuple(one for one in FRUIT if one != missing[entity.id]) for entity, _ in pairs]
        kept[name] = [_accuracy_of(read, i, scene, left[i]) for i, scene in enumerate(scenes)]
        gone = [_accuracy_of(read, i, scene, (missing[entity.id],)) for i, (entity, scene) in enumerate(pairs)]
        rows.append({"table": "unseen fruits", "vectors": name, "pictures": args.count, **_rounded(accuracy[name], kept[name], gone)})

    edits = [edit(entity, FRUIT[i % len(FRUIT)], rng) for i, entity in enumerate(_seen(args.edits, rng))]
    changed = extend_graph(graph, "\n".join(line for _, lines, _, _ in edits for line in lines)).graph
    edited = [(entity, entity.scene(random.Random(f"edit/{i}"), style="fine")) for i, (entity, _, _, _) in enumerate(edits)]
    told = prompts_for(edited)
    before, after = drawn(graph, told), drawn(changed, told)
    follows = [_reads(after, i, attribute, value) for i, (_, _, attribute, value) in enumerate(edits)]
    held = [_reads(before, i, attribute, value) for i, (_, _, attribute, value) in enumerate(edits)]
    others = [tuple(one for one in FRUIT if one != attribute) for _, _, attribute, _ in edits]
    stays = [[_accuracy_of(read, i, scene, others[i]) for i, (_, scene) in enumerate(edited)] for read in (before, after)]
    for attribute in FRUIT:
        chosen = [i for i, found in enumerate(edits) if found[2] == attribute]
        if chosen:
            rows.append(
                {"table": "edits", "changed": attribute, "edits": len(chosen)}
                | {"new value before": _part(held, chosen), "new value after": _part(follows, chosen)}
                | {"others before": _part(stays[0], chosen), "others after": _part(stays[1], chosen)}
            )
    checks = [
        wanted["loss"].judge(difference(accuracy["trained vectors"], accuracy["facts alone"])),
        wanted["gain"].judge(difference(accuracy["facts alone"], accuracy["no graph"])),
        wanted["kept"].judge(difference(kept["facts alone"], kept["one fact fewer"])),
        wanted["follows"].judge(mean(follows)),
        wanted["stays"].judge(difference(stays[0], stays[1])),
    ]
    notes = (
        f"{STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}. 'kept' are the three attributes of each fruit that 'one fact fewer' is told, "
        "'missing' the fourth. Edits change shape, skin, pattern and topper in turn."
    )
    return common.result("extend_knowledge", "python -m rapiddraw bench extend-knowledge", rows, checks, notes=notes)


def without(graph: Any, ids: set[str]) -> Any:
    """Return a graph without the entities `ids`: their triples, names and vectors are gone, and relations are estimated again."""
    from ..core.knowledge.graph import KnowledgeGraph

    stay = [i for i, entity in enumerate(graph.entities) if entity not in ids]
    place = {old: new for new, old in enumerate(stay)}
    triples = tuple((place[h], r, place[t]) for h, r, t in graph.triples if h in place and t in place)
    aliases = {entity: names for entity, names in graph.aliases.items() if entity not in ids}
    rest = KnowledgeGraph(tuple(graph.entities[i] for i in stay), graph.relations, triples, aliases)
    return rest.with_embeddings(graph.embeddings[stay])


def facts_of(graph: Any, entity: Entity, without: str = "") -> list[str]:
    """Return the lines that say what a graph knows of a fruit, its names too, as a user would type them; not what says `without`."""
    gone = {FRUIT_RELATIONS[without], "is_a" if without == "shape" else FRUIT_RELATIONS[without]} if without else set()
    facts = [
        f"{entity.id}, {relation}, {tail}"
        for head, relation, tail in graph.neighbours(entity.id)
        if head == entity.id and relation not in gone
    ]
    return facts + [f"{entity.id}, alias@{language}, {name}" for language, names in entity.aliases.items() for name in names]


def edit(entity: Entity, attribute: str, rng: random.Random) -> tuple[Entity, list[str], str, str]:
    """Return a fruit, the lines that give one attribute another value, the attribute, and its new value."""
    from ..core.orchard.entities import triples
    from ..core.orchard.world import ATTRIBUTES

    values = [value for value in ATTRIBUTES[attribute] if value not in (getattr(entity, attribute), "plain", entity.pattern_colour)]
    value = rng.choice(values)
    if attribute == "shape" and entity.genus is not None:
        genus = next(
            head for head, relation, tail in triples() if relation == "has_shape" and tail == f"shape:{value}" and head[:6] == "genus:"
        )
        return entity, [f"{entity.id}, is_a, {genus}"], attribute, value
    return entity, [f"{entity.id}, {FRUIT_RELATIONS[attribute]}, {attribute}:{value}"], attribute, value


def _seen(count: int, rng: random.Random) -> list[Entity]:
    """Return seen fruits that have a pattern, so that every attribute can be changed alone."""
    from ..core.orchard.entities import entities

    return rng.sample([entity for entity in entities() if entity.split == "seen" and entity.pattern != "plain"], count)


def _reads(read: Any, index: int, attribute: str, value: str) -> float:
    from ..core.orchard.world import ATTRIBUTES

    return float(ATTRIBUTES[attribute][int(read[attribute][index])] == value)


def _accuracy_of(read: Any, index: int, scene: Any, attributes: tuple[str, ...]) -> float:
    return sum(_reads(read, index, one, getattr(scene, one)) for one in attributes) / len(attributes)


def _part(values: list[float], chosen: list[int]) -> float:
    return round(sum(values[i] for i in chosen) / len(chosen), 3)


def _rounded(accuracy: Any, kept: list[float], gone: list[float]) -> dict[str, float]:
    return {
        "accuracy": round(float(accuracy.mean()), 3),
        "kept": round(sum(kept) / len(kept), 3),
        "missing": round(sum(gone) / len(gone), 3),
    }
