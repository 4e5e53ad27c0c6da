"""The node that teaches a CLIP, trained without a graph, to read one (the W of Rapid Diffusion, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.knowledge.graph import KnowledgeGraph
    from .sockets import Inputs


class FitKnowledgeProjection:
    """Learns W for the user's own CLIP from the entities whose names it knows, says how well, and saves it."""

    DISPLAY_NAME = "Fit Knowledge Projection"
    CATEGORY = "RapidDraw/knowledge"
    DESCRIPTION = (
        "Teaches the CLIP of SD 1.5, SD 2 or SDXL to read a knowledge graph, without training it: for every encoder a matrix W is fitted "
        "by ridge regression from the vectors of entities whose names (or describing words) the CLIP knows to its own token embeddings "
        "of them. Names held out of the fit show what W is worth on names it does not know. Seconds, not hours; the file serves for good."
    )
    RETURN_TYPES = ("CLIP", "STRING", "STRING")
    RETURN_NAMES = ("clip", "report", "projection_name")
    OUTPUT_TOOLTIPS = (
        "The CLIP carrying the projection, for Apply Knowledge and KG Text Encode; the one given stays as it was.",
        "A table: error and cosine on held-out names for each encoder, beside always answering the mean name; a ratio below 1 is better.",
        "The file's name, as Apply Knowledge and KG Text Encode list it under projection.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        ridge_tip = (
            "How strongly W is kept small, in units of the vectors' mean energy, so that it means the same for any graph. More forgets "
            "details and survives few or noisy entities; 0 is plain least squares."
        )
        seed_tip = "Which names are held out, and which are taken where there are more than the limit."
        entities_tip = (
            "The entities to fit on: ids or names, one a line or separated by commas. Empty takes all. Best are those that the CLIP has "
            "seen in many captions."
        )
        tokens_tip = (
            "Names that the tokenizer spells in more tokens are left out. A common word is one token, an invented name falls into several, "
            "so fewer means surer that the CLIP knows the name."
        )
        described_tip = (
            "For entities whose own names the CLIP cannot know: relations of the graph, separated by commas (has_shape, skin_colour). "
            "The words they lead to (round, red) then stand for the name. Empty takes the names themselves."
        )
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The CLIP to fit for. LoRAs and clip skip do not matter to the fit."}),
                "knowledge": ("KNOWLEDGE_GRAPH", {"tooltip": "The graph, with trained vectors and names that this CLIP knows."}),
                "ridge": ("FLOAT", {"default": 0.1, "min": 0.0, "max": 1e6, "step": 0.01, "tooltip": ridge_tip}),
                "holdout": (
                    "FLOAT",
                    {"default": 0.2, "min": 0.05, "max": 0.5, "step": 0.05, "tooltip": "Share of names to measure on, not fitted."},
                ),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True, "tooltip": seed_tip}),
                "language": ("STRING", {"default": "en", "tooltip": "Language of the names, as in the graph (en, zh). Empty takes any."}),
                "max_tokens": ("INT", {"default": 4, "min": 1, "max": 24, "tooltip": tokens_tip}),
                "limit": ("INT", {"default": 0, "min": 0, "max": 10000, "tooltip": "At most so many entities, sampled; 0 is all (10000)."}),
                "filename": (
                    "STRING",
                    {
                        "default": "knowledge-projection",
                        "tooltip": "The file to write, in rapiddraw/ of the output folder; a projection of that name is replaced.",
                    },
                ),
            },
            "optional": {
                "entities": ("STRING", {"default": "", "multiline": True, "tooltip": entities_tip}),
                "described_by": ("STRING", {"default": "", "tooltip": described_tip}),
            },
        }

    def execute(
        self,
        clip: Any,
        knowledge: KnowledgeGraph,
        ridge: float,
        holdout: float,
        seed: int,
        language: str,
        max_tokens: int,
        limit: int,
        filename: str,
        entities: str = "",
        described_by: str = "",
    ) -> tuple[Any, str, str]:
        from ..core.host import current
        from ..core.knowledge.choices import write_projection
        from ..core.knowledge.fit import fit_projection, named

        host = current()
        spaces = host.knowledge_reader(clip).spaces
        fit = fit_projection(spaces, knowledge, ridge, holdout, seed, entities, limit, language, max_tokens, described_by)
        fit = named(fit, write_projection(fit.projection, filename))
        return host.carry_projection(clip, fit.projection), fit.table(), fit.projection.name


NODE_CLASS_MAPPINGS = {"RapidDrawFitKnowledgeProjection": FitKnowledgeProjection}
