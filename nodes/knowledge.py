"""Nodes that bring a knowledge graph into the text encoder (Rapid Diffusion, section 3: e = e_txt + kg_scale * W e_kg)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import content_of

if TYPE_CHECKING:
    from ..core.knowledge.graph import KnowledgeGraph
    from .sockets import Inputs

_SCALE_TIP = (
    "How strongly what the graph knows of an entity is added to its tokens. 0 is no graph (bit-identical), 1 is as trained (the paper), "
    "above 1 exaggerates."
)
_SCALE = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.05, "tooltip": _SCALE_TIP})
_GRAPH = (
    "KNOWLEDGE_GRAPH",
    {"tooltip": "From Load Knowledge Graph. Its vectors must be those the text encoder was trained with, or its projection was fitted to."},
)
_CLIP = (
    "CLIP",
    {"tooltip": "The text encoder: of Load Bundles, or of SD 1.5, SD 2 or SDXL together with a projection (see Fit Knowledge Projection)."},
)
_PROJECTION_TIP = (
    "The W that takes the graph's vectors to this CLIP's tokens, from a file that Fit Knowledge Projection made. none: the one that the "
    "CLIP brings along (Load Bundles' was trained with one, Fit Knowledge Projection's carries the new one)."
)


def _projection() -> tuple[Any, dict[str, Any]]:
    from ..core.knowledge.choices import list_projections

    return (list_projections(), {"default": "none", "tooltip": _PROJECTION_TIP})


class KnowledgeGraphLoader:
    """A KNOWLEDGE_GRAPH from a trained bundle, or from a file of triples."""

    DISPLAY_NAME = "Load Knowledge Graph"
    CATEGORY = "RapidDraw/knowledge"
    DESCRIPTION = (
        "Loads a knowledge graph: a trained bundle (kind kg), or your own triples as .tsv (head, relation, tail) or .jsonl, from a "
        "weights folder or the input folder. Triples alone can be looked at; to guide a picture they need trained vectors."
    )
    RETURN_TYPES = ("KNOWLEDGE_GRAPH", "STRING")
    RETURN_NAMES = ("knowledge", "stats")
    OUTPUT_TOOLTIPS = ("The graph, for KG Text Encode and Apply Knowledge.", "How many entities, relations, triples and names it has.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.knowledge.choices import list_graphs

        names = list_graphs() or ["(no knowledge graph found: train one or put it into weights/)"]
        return {"required": {"kg_name": (names, {"tooltip": "A bundle of kind kg, or a .tsv or .jsonl file of triples."})}}

    @classmethod
    def IS_CHANGED(cls, kg_name: str | None = None, **_: Any) -> str:
        return content_of(kg=kg_name)

    def execute(self, kg_name: str) -> tuple[KnowledgeGraph, str]:
        from ..core.knowledge.choices import describe_graph, load_graph

        graph = load_graph(kg_name)
        return graph, describe_graph(graph)


class ApplyKnowledge:
    """CLIP in, CLIP out: every text encoded with the result knows the graph's entities."""

    DISPLAY_NAME = "Apply Knowledge"
    CATEGORY = "RapidDraw/knowledge"
    DESCRIPTION = (
        "Teaches a CLIP the entities of a knowledge graph, so that CLIP Text Encode and any other node knows them. The CLIP of SD 1.5 or "
        "SDXL needs a fitted projection for that. "
        "A text that names none, such as the empty negative prompt, is encoded as before."
    )
    RETURN_TYPES = ("CLIP",)
    RETURN_NAMES = ("clip",)
    OUTPUT_TOOLTIPS = ("The text encoder with the graph attached; the one given stays as it was.",)
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

        return (current().attach_knowledge(clip, knowledge, kg_scale, load_chosen_projection(projection)),)


class KGTextEncode:
    """A prompt with knowledge, and a report of what was linked."""

    DISPLAY_NAME = "KG Text Encode"
    CATEGORY = "RapidDraw/knowledge"
    DESCRIPTION = (
        "Encodes a prompt, adding what a knowledge graph knows to the tokens of every entity the prompt names, in any language "
        "the graph has names in. Says which entities were found, and where."
    )
    RETURN_TYPES = ("CONDITIONING", "STRING")
    RETURN_NAMES = ("conditioning", "links")
    OUTPUT_TOOLTIPS = (
        "The conditioning for a sampler or guider.",
        "One line an entity: the name, the entity, its row and tokens, and whether the end of a row cut it.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        template_tip = (
            "What stands around the text: the word object in braces is where it goes, and the paper writes 'the photo of' or "
            "'the picture of' before it. An empty text stays empty."
        )
        return {
            "required": {
                "clip": _CLIP,
                "knowledge": _GRAPH,
                "text": ("STRING", {"multiline": True, "default": "", "tooltip": "What to draw. (word:1.2) weighs a word."}),
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
        informed = host.attach_knowledge(clip, knowledge, kg_scale, load_chosen_projection(projection))
        report = describe(host.knowledge_links(informed, prompt))
        if kg_scale == 0:
            report += "\nkg_scale is 0: nothing is added"
        return host.encode_text(informed, prompt), report


NODE_CLASS_MAPPINGS = {
    "RapidDrawKnowledgeGraphLoader": KnowledgeGraphLoader,
    "RapidDrawApplyKnowledge": ApplyKnowledge,
    "RapidDrawKGTextEncode": KGTextEncode,
}
