"""A node that makes prompts of keywords (Rapid Diffusion, section 5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.knowledge.graph import KnowledgeGraph
    from .sockets import Inputs


class KeywordPromptGenerator:
    """A list of prompts from keywords. The nodes after it run once for each prompt."""

    DISPLAY_NAME = "Keyword Prompt Generator"
    CATEGORY = "RapidDraw/prompts"
    SEARCH_ALIASES = ("random prompt", "wildcards", "prompt list", "prompt combinations", "dynamic prompts", "batch prompts")
    ESSENTIALS_CATEGORY = "Text Generation"
    DESCRIPTION = (
        "Turns a few keywords into several full prompts, in English or Chinese. The nodes after it run once for each prompt. With a "
        "knowledge graph, prompts name entities that fit the keywords (Rapid Diffusion, section 5.1)."
    )
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("prompts", "report")
    OUTPUT_IS_LIST = (True, False)
    OUTPUT_TOOLTIPS = ("The prompts, as a list. Link them to a text input.", "How many prompts were possible, and which entities fit.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "keywords": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "subject: fruit\ncolour: red, teal\nshape: heart, star\nground: snow",
                        "tooltip": (
                            "One slot on each line: 'slot: value, value'. Slots: subject, size, colour, shape, pattern, pattern colour, "
                            "topper, position, ground, sky, style, material, ingredient, mood, trend. A slot of any other name describes "
                            "the subject. Without a subject the prompt says 'object'. Chinese works as well."
                        ),
                    },
                ),
                "language": (
                    ["en", "zh"],
                    {"default": "en", "tooltip": "Language of the prompts. The keywords may be in either language."},
                ),
                "num_prompts": (
                    "INT",
                    {
                        "default": 4,
                        "min": 1,
                        "max": 64,
                        "tooltip": "How many prompts, 1 to 64. They all differ while there are enough combinations.",
                    },
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "control_after_generate": True,
                        "tooltip": "Chooses the combinations. The same seed gives the same prompts.",
                    },
                ),
            },
            "optional": {
                "knowledge": (
                    "KNOWLEDGE_GRAPH",
                    {
                        "tooltip": (
                            "Prompts name entities of this graph that fit the keywords, instead of describing them. A subject in the "
                            "keywords comes first."
                        )
                    },
                ),
            },
        }

    def execute(
        self, keywords: str, language: str, num_prompts: int, seed: int, knowledge: KnowledgeGraph | None = None
    ) -> tuple[list[str], str]:
        from ..core.text.prompts import generate_prompts

        prompts = generate_prompts(keywords, language, num_prompts, seed, knowledge)
        return list(prompts.texts), prompts.report


NODE_CLASS_MAPPINGS = {"RapidDrawKeywordPromptGenerator": KeywordPromptGenerator}
