"""A node that makes a detailed prompt of a short one (PanGu-Draw, section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import content_of

if TYPE_CHECKING:
    from ..core.knowledge.graph import KnowledgeGraph
    from .sockets import Inputs, Latent


class PromptEnhancer:
    """A short prompt, made detailed by a language model, with every name kept."""

    DISPLAY_NAME = "Prompt Enhancer"
    CATEGORY = "RapidDraw/prompts"
    WORKS_WITH = "Prompts for any model. A MODEL with CLIP and VAE is needed only where candidates are ranked by their pictures."
    SEARCH_ALIASES = (
        "llm", "improve prompt", "expand prompt", "rewrite prompt", "prompt upsampling", "magic prompt", "superprompt", "language model",
    )  # fmt: skip
    ESSENTIALS_CATEGORY = "Text Generation"
    HAS_INTERMEDIATE_OUTPUT = True
    DESCRIPTION = (
        "Adds background, light and style to a short prompt, in English or Chinese (PanGu-Draw, section 7). Names of the knowledge graph, "
        "quoted terms and prompt syntax are kept letter by letter; where that fails, the prompt stays as it was and the report says so. "
        "The writer is this pack's small model, your own language model in models/rapiddraw/llm or models/LLM, or a grammar. Nothing is "
        "downloaded."
    )
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("prompt", "report")
    OUTPUT_TOOLTIPS = ("The detailed prompt, for a text-encode node.", "All proposals with their scores, and which names were kept.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.operations.enhance import BEST_OF, LANGUAGES, list_writers

        model_tip = (
            "The writer: a bundle of kind prompt, a folder with a causal language model that transformers can load, or a grammar that "
            "adds what is missing. A large model needs time and memory."
        )
        temperature_tip = (
            "How varied the words are, 0 to 2. 0: always the likeliest word. 1: as learnt. Above 1 the text soon becomes nonsense."
        )
        best_tip = (
            "How the proposal is chosen. likelihood: the likeliest one to its writer. clip: the one nearest to the short prompt in the "
            "scorer's space, by its picture where diffusion_model, clip, vae and latent are linked, else by its text. first: the first "
            "one."
        )
        draws = (
            "With diffusion_model, clip, vae and latent all linked, best_of clip draws every proposal in 8 steps and judges the pictures."
        )
        return {
            "required": {
                "text": ("STRING", {"multiline": True, "default": "", "tooltip": "The short prompt. An empty one stays empty."}),
                "model": (list_writers(), {"tooltip": model_tip}),
                "num_candidates": (
                    "INT",
                    {
                        "default": 4,
                        "min": 1,
                        "max": 16,
                        "tooltip": "Proposals to choose from, 1 to 16. More takes longer. PanGu-Draw says 'multiple' (section 7).",
                    },
                ),
                "temperature": ("FLOAT", {"default": 0.7, "min": 0.0, "max": 2.0, "step": 0.05, "tooltip": temperature_tip}),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "control_after_generate": True,
                        "tooltip": "Another seed gives other proposals.",
                    },
                ),
                "language": (
                    list(LANGUAGES),
                    {"default": "auto", "tooltip": "Language of the detailed prompt. auto: the language of the short prompt."},
                ),
                "best_of": (list(BEST_OF), {"default": BEST_OF[0], "tooltip": best_tip}),
            },
            "optional": {
                "knowledge": (
                    "KNOWLEDGE_GRAPH",
                    {"tooltip": "Names of this graph are kept. Without a graph, only quoted terms and syntax are."},
                ),
                "scorer": (
                    _scorers(),
                    {"tooltip": "For best_of clip: a text bundle with its image tower beside it. It judges only what it was trained on."},
                ),
                "diffusion_model": ("MODEL", {"tooltip": draws}),
                "clip": ("CLIP", {"tooltip": "The text encoder of diffusion_model."}),
                "vae": ("VAE", {"tooltip": "The VAE of diffusion_model."}),
                "latent": ("LATENT", {"tooltip": "An empty latent of the size for those pictures."}),
            },
        }

    @classmethod
    def IS_CHANGED(cls, model: str | None = None, scorer: str | None = None, **_: Any) -> str:
        from ..core.operations.enhance import writer_fingerprint

        return f"{writer_fingerprint(model) if model else ''}-{content_of(scorer=scorer)}"

    def execute(
        self,
        text: str,
        model: str,
        num_candidates: int,
        temperature: float,
        seed: int,
        language: str,
        best_of: str,
        knowledge: KnowledgeGraph | None = None,
        scorer: str = "",
        diffusion_model: Any = None,
        clip: Any = None,
        vae: Any = None,
        latent: Latent | None = None,
    ) -> dict[str, Any]:
        from ..core.operations.enhance import Proposals, enhance, load_writer
        from ..core.operations.rank import make_rank

        rank = make_rank(text, scorer, knowledge, (diffusion_model, clip, vae, latent), seed) if best_of == "clip" else None
        writer = load_writer(model)
        proposals = Proposals(num_candidates, temperature, seed, language)
        found = enhance(text, writer, proposals, knowledge, rank, first=best_of == "first")
        return {"ui": {"text": [found.text]}, "result": (found.text, found.report)}


def _scorers() -> list[str]:
    from ..core.operations.rank import list_scorers

    return list_scorers() or ["(no text bundle with an image tower found)"]


NODE_CLASS_MAPPINGS = {"RapidDrawPromptEnhancer": PromptEnhancer}
