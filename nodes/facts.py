"""Nodes for the facts of a knowledge graph: add facts without training, and ask for them (vectors as in Rapid Diffusion, section 3.1.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.knowledge.graph import KnowledgeGraph
    from .sockets import Inputs

_GRAPH = ("KNOWLEDGE_GRAPH", {"tooltip": "A graph with trained vectors, from Load Knowledge Graph or Train Knowledge Graph."})


class ExtendKnowledgeGraph:
    """A graph that also knows new things, and known things with changed facts."""

    DISPLAY_NAME = "Extend Knowledge Graph"
    CATEGORY = "RapidDraw/knowledge"
    SEARCH_ALIASES = (
        "add facts",
        "new entity",
        "new character",
        "new product",
        "knowledge edit",
        "counterfactual",
        "concept",
        "no training",
    )
    DESCRIPTION = (
        "Makes a product, a character or a dish drawable as soon as its facts are typed, without training. Its vector is the mean of what "
        "its facts say (tail - relation and head + relation, as TransE places them), weighted by how well each relation holds. A changed "
        "fact of a known thing changes that in some of the pictures. For KG Text Encode and Apply Knowledge, also with the projection of a "
        "model of your own."
    )
    RETURN_TYPES = ("KNOWLEDGE_GRAPH", "STRING")
    RETURN_NAMES = ("knowledge", "report")
    OUTPUT_TOOLTIPS = (
        "The graph with the new facts; the graph at the input is not changed.",
        "A line for each fact: which value the vector gives back, out of how many, and how often known facts of that relation are right.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        facts_tip = (
            "A fact on each line, as name, relation, value: blumo, skin_colour, red. The name may be new, in any language; relations and "
            "values are those of the graph, and the nearest ones are suggested. The help page says how a thing gets more names."
        )
        return {"required": {"knowledge": _GRAPH, "facts": ("STRING", {"multiline": True, "default": "", "tooltip": facts_tip})}}

    def execute(self, knowledge: KnowledgeGraph, facts: str) -> tuple[KnowledgeGraph, str]:
        from ..core.knowledge.extend import extend_graph

        extension = extend_graph(knowledge, facts)
        return extension.graph, extension.report


class KnowledgeGraphQuery:
    """What a graph says of one thing, as text."""

    DISPLAY_NAME = "Knowledge Graph Query"
    CATEGORY = "RapidDraw/knowledge"
    SEARCH_ALIASES = ("look up", "facts of", "nearest neighbours", "similar things", "inspect graph", "wiki")
    DESCRIPTION = (
        "Shows what a knowledge graph says of one thing: its names, its facts, and the things that are most like it by their vectors, "
        "each with the facts that both share. Use it to see what a name will add to a prompt."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("text",)
    OUTPUT_TOOLTIPS = ("Names, facts and nearest things, a line each.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        entity_tip = "The thing: its id, one of its names in any language, or the last part of its id (red for skin:red)."
        near_tip = "How many of the nearest things to list, 0 to 100. Nearest is the smallest distance between vectors."
        return {
            "required": {
                "knowledge": ("KNOWLEDGE_GRAPH", {"tooltip": "Any graph; one without vectors has facts only."}),
                "entity": ("STRING", {"default": "", "tooltip": entity_tip}),
                "neighbours": ("INT", {"default": 5, "min": 0, "max": 100, "tooltip": near_tip}),
            }
        }

    def execute(self, knowledge: KnowledgeGraph, entity: str, neighbours: int) -> tuple[str]:
        from ..core.knowledge.query import describe_entity

        return (describe_entity(knowledge, entity, neighbours),)


NODE_CLASS_MAPPINGS: dict[str, Any] = {
    "RapidDrawExtendKnowledgeGraph": ExtendKnowledgeGraph,
    "RapidDrawKnowledgeGraphQuery": KnowledgeGraphQuery,
}
