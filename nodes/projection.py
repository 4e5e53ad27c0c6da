"""A node that lets a CLIP which was trained without a graph read one (a matrix W for Rapid Diffusion, section 3.1.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.knowledge.graph import KnowledgeGraph
    from .sockets import Inputs


class FitKnowledgeProjection:
    """The matrix W of the user's own CLIP: fitted, measured and saved."""

    DISPLAY_NAME = "Fit Knowledge Projection"
    CATEGORY = "RapidDraw/knowledge"
    WORKS_WITH = "Text encoders of any family: CLIP, T5 and language models."
    SEARCH_ALIASES = ("train knowledge", "adapt clip", "knowledge for sdxl", "embedding")
    DESCRIPTION = (
        "Lets the text encoders of your own model (SD 1.5, SDXL, Flux, Qwen-Image, Z-Image, Wan and others) use a knowledge graph: CLIP, "
        "T5 and language models. It takes seconds, trains nothing in them, and the file can be used again. From entities that an encoder "
        "knows by name, or by describing words, ridge regression fits a matrix W from the graph's vectors to its token embeddings, one for "
        "each encoder. Names that are kept out of the fit show how well W works. W is the projection that Rapid Diffusion's section 3.1.1 "
        "leaves open."
    )
    RETURN_TYPES = ("CLIP", "STRING", "STRING")
    RETURN_NAMES = ("clip", "report", "projection_name")
    OUTPUT_TOOLTIPS = (
        "The CLIP with the projection, for Apply Knowledge and KG Text Encode; the CLIP at the input is not changed.",
        (
            "A table for each encoder: error and cosine on the names that were kept out, against always giving the mean name. A "
            "ratio below 1 is better than the mean."
        ),
        "The file's name, for the input projection of Apply Knowledge and KG Text Encode.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        ridge_tip = (
            "How small W is kept, in units of the vectors' mean energy, so that one value means the same for every graph. Larger loses "
            "details and copes with few or noisy entities; 0 is plain least squares."
        )
        seed_tip = "Chooses the names that are kept out and, where there are more than limit, the names that are used."
        entities_tip = (
            "The entities to fit on: ids or names, one on each line or separated by commas. Empty takes all. Best are things that the "
            "CLIP has seen in many captions."
        )
        tokens_tip = (
            "Longest name, in tokens of the CLIP; longer names are left out. A common word is one token, an invented name is several. A "
            "smaller value makes it surer that the CLIP knows the name."
        )
        described_tip = (
            "For names that the CLIP cannot know: relations of the graph, separated by commas (has_shape, skin_colour). The words at "
            "their other end (round, red) then stand for the name. Empty uses the names."
        )
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The CLIP to fit for. LoRAs and clip skip do not change the fit."}),
                "knowledge": (
                    "KNOWLEDGE_GRAPH",
                    {"tooltip": "The graph, with trained vectors, and with names or describing words that this CLIP knows."},
                ),
                "ridge": ("FLOAT", {"default": 0.1, "min": 0.0, "max": 1e6, "step": 0.01, "tooltip": ridge_tip}),
                "holdout": (
                    "FLOAT",
                    {
                        "default": 0.2,
                        "min": 0.05,
                        "max": 0.5,
                        "step": 0.05,
                        "tooltip": (
                            "Share of the names, 0.05 to 0.5, that measure W and are not fitted. More measures better, and fits "
                            "on fewer names."
                        ),
                    },
                ),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True, "tooltip": seed_tip}),
                "language": (
                    "STRING",
                    {"default": "en", "tooltip": "Language of the names, as in the graph (en, zh). Empty takes every language."},
                ),
                "max_tokens": ("INT", {"default": 4, "min": 1, "max": 24, "tooltip": tokens_tip}),
                "limit": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 10000,
                        "tooltip": "Most entities to fit on, chosen by the seed; 0 is all, up to 10000. More fits better and takes longer.",
                    },
                ),
                "filename": (
                    "STRING",
                    {
                        "default": "knowledge-projection",
                        "tooltip": "The file to write, in rapiddraw/ of the output folder. A projection of the same name is replaced.",
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
        from ..core.knowledge.fit import Selection, fit_projection, named

        host = current()
        spaces = host.knowledge.reader_of(clip).spaces
        chosen = Selection(entities, limit, language, max_tokens, described_by)
        fit = fit_projection(spaces, knowledge, ridge, holdout, seed, chosen)
        fit = named(fit, write_projection(fit.projection, filename))
        return host.knowledge.carry_projection(clip, fit.projection), fit.table(), fit.projection.name


NODE_CLASS_MAPPINGS = {"RapidDrawFitKnowledgeProjection": FitKnowledgeProjection}
