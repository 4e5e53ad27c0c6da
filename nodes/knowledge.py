"""Nodes that bring a knowledge graph into the text encoder (Rapid Diffusion, section 3.1.1: e = e_txt + kg_scale * W e_kg)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import content_of
from .works_with import ANY_ENCODER

if TYPE_CHECKING:
    from ..core.knowledge.graph import KnowledgeGraph
    from .sockets import Inputs

_SCALE_TIP = (
    "How strongly the graph acts: factor of the entity's vector, 0 to 2. 0 adds nothing (the same conditioning, bit for bit); 1 is the "
    "strength of the training and of Rapid Diffusion's formula; above 1 exaggerates."
)
_SCALE = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.05, "tooltip": _SCALE_TIP})
_GRAPH = (
    "KNOWLEDGE_GRAPH",
    {
        "tooltip": (
            "From Load Knowledge Graph. It must be the graph that the text encoder was trained with, or that its projection was fitted to."
        )
    },
)
_CLIP = (
    "CLIP",
    {
        "tooltip": (
            "The text encoder: from Load Bundles, or that of any other model together with a projection (see Fit Knowledge Projection)."
        )
    },
)
_PROJECTION_TIP = (
    "The matrix W from the graph's vectors to this CLIP's tokens, in a file of Fit Knowledge Projection. none: the CLIP's own W, which "
    "the CLIP of Load Bundles and of Fit Knowledge Projection has."
)


def _projection() -> tuple[Any, dict[str, Any]]:
    from ..core.knowledge.choices import list_projections

    return (list_projections(), {"default": "none", "tooltip": _PROJECTION_TIP})


class KnowledgeGraphLoader:
    """A KNOWLEDGE_GRAPH from a trained bundle, or from a file of triples."""

    DISPLAY_NAME = "Load Knowledge Graph"
    CATEGORY = "RapidDraw/knowledge"
    SEARCH_ALIASES = ("load kg", "triples", "ontology", "entities", "wiki", "glossary", "character database")
    DESCRIPTION = (
        "Loads the facts about named things that KG Text Encode adds to a prompt: a trained bundle of kind kg, or your own triples as "
        ".tsv (head, relation, tail) or .jsonl, from a weights folder or the input folder. Triples can be looked at; to guide a picture "
        "they also need vectors, from python -m rapiddraw train kg."
    )
    RETURN_TYPES = ("KNOWLEDGE_GRAPH", "STRING")
    RETURN_NAMES = ("knowledge", "stats")
    OUTPUT_TOOLTIPS = (
        "The graph, for KG Text Encode and Apply Knowledge.",
        "How many entities, relations, triples and names the graph has.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.knowledge.choices import list_graphs

        names = list_graphs() or ["(no knowledge graph found: train one or put it into weights/)"]
        return {
            "required": {"kg_name": (names, {"tooltip": "A bundle of kind kg, or a .tsv or .jsonl file with one triple on each line."})}
        }

    @classmethod
    def IS_CHANGED(cls, kg_name: str | None = None, **_: Any) -> str:
        return content_of(kg=kg_name)

    def execute(self, kg_name: str) -> tuple[KnowledgeGraph, str]:
        from ..core.knowledge.choices import describe_graph, load_graph

        graph = load_graph(kg_name)
        return graph, describe_graph(graph)


class ApplyKnowledge:
    """CLIP in, CLIP out: the result knows the graph's entities in every text."""

    DISPLAY_NAME = "Apply Knowledge"
    CATEGORY = "RapidDraw/knowledge"
    WORKS_WITH = ANY_ENCODER
    SEARCH_ALIASES = ("knowledge graph", "named entity", "character names", "product names", "unknown words", "rare words", "clip patch")
    DESCRIPTION = (
        "Teaches a CLIP the named things of a knowledge graph, for CLIP Text Encode and every other text node. A text that names none of "
        "them, such as an empty negative prompt, is encoded as before. For any model; the text encoders of SD 1.5, SDXL, Flux, Qwen-Image, "
        "Wan and others need a projection (see Fit Knowledge Projection)."
    )
    RETURN_TYPES = ("CLIP",)
    RETURN_NAMES = ("clip",)
    OUTPUT_TOOLTIPS = ("The text encoder with the graph attached; the CLIP at the input is not changed.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"clip": _CLIP, "knowledge": _GRAPH, "kg_scale": _SCALE}, "optional": {"projection": _projection()}}

    @classmethod
    def IS_CHANGED(cls, projection: str | None = None, **_: Any) -> str:
        return content_of(projection=projection)

    def execute(self, clip: Any, knowledge: KnowledgeGraph, kg_scale: float, projection: str = "none") -> tuple[Any]:
        from ..core.host import current
        from ..core.knowledge.choices import load_chosen_projection

        return (current().knowledge.attach(clip, knowledge, kg_scale, load_chosen_projection(projection)),)


class KGTextEncode:
    """A prompt encoded with knowledge, and a report of the names that were found."""

    DISPLAY_NAME = "KG Text Encode"
    CATEGORY = "RapidDraw/knowledge"
    WORKS_WITH = ANY_ENCODER
    SEARCH_ALIASES = (
        "text encode", "prompt", "clip text encode", "knowledge graph", "named entity", "character names", "product names",
        "unknown words", "rare words",
    )  # fmt: skip
    ESSENTIALS_CATEGORY = "Image Generation"
    DESCRIPTION = (
        "Lets a prompt name things that the text encoder never learnt, in every language that the graph has names in. The graph's vector "
        "of each named entity is added to the tokens of its name (Rapid Diffusion, section 3.1.1). A report lists the names that were "
        "found. For any model; its text encoders may be CLIP, T5 or language models."
    )
    RETURN_TYPES = ("CONDITIONING", "STRING")
    RETURN_NAMES = ("conditioning", "links")
    OUTPUT_TOOLTIPS = (
        "The conditioning for a sampler or guider.",
        ("A line for each entity: its name in the text, the entity, its row and tokens, and whether the end of a row cut the name."),
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        template_tip = (
            "Words around the text. The text goes where the word object stands in braces. Rapid Diffusion uses 'the photo of' and 'the "
            "picture of' (section 3.1.1). An empty text stays empty."
        )
        return {
            "required": {
                "clip": _CLIP,
                "knowledge": _GRAPH,
                "text": (
                    "STRING",
                    {"multiline": True, "default": "", "tooltip": "What to draw. (word:1.2) gives a word 1.2 times the weight."},
                ),
                "prompt_template": ("STRING", {"default": "{object}", "tooltip": template_tip}),
                "kg_scale": _SCALE,
            },
            "optional": {"projection": _projection()},
        }

    @classmethod
    def IS_CHANGED(cls, projection: str | None = None, **_: Any) -> str:
        return content_of(projection=projection)

    def execute(
        self, clip: Any, knowledge: KnowledgeGraph, text: str, prompt_template: str, kg_scale: float, projection: str = "none"
    ) -> tuple[Any, str]:
        from ..core.host import current
        from ..core.knowledge.choices import load_chosen_projection
        from ..core.knowledge.linking import describe
        from ..core.text.templates import apply_template

        host, prompt = current(), apply_template(prompt_template, text)
        informed = host.knowledge.attach(clip, knowledge, kg_scale, load_chosen_projection(projection))
        conditioning, links = host.knowledge.encode_with_links(informed, prompt)
        report = describe(links)
        if kg_scale == 0:
            report += "\nkg_scale is 0: nothing is added"
        return conditioning, report


NODE_CLASS_MAPPINGS = {
    "RapidDrawKnowledgeGraphLoader": KnowledgeGraphLoader,
    "RapidDrawApplyKnowledge": ApplyKnowledge,
    "RapidDrawKGTextEncode": KGTextEncode,
}
