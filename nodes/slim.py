"""Nodes that leave out blocks of a U-Net and show what each block costs and does (SnapFusion, Algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .dataset import NONE, _choices, _load
from .loaders import content_of

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs


class SkipBlocks:
    """MODEL in, a MODEL without some of its blocks out."""

    DISPLAY_NAME = "Skip Blocks"
    CATEGORY = "RapidDraw/slim"
    SEARCH_ALIASES = ("remove layers", "skip layers", "prune unet", "smaller model", "faster model", "identity block")
    DESCRIPTION = (
        "Leaves out blocks of a U-Net by name, to see at once what they do and how much faster the model is without them: the removal "
        "of SnapFusion's Algorithm 1 by hand. A removed block is the identity; a residual block that changes the number of channels "
        "leaves its shortcut. LoRAs on the kept blocks still work. Save Low-Rank UNet keeps the result. "
        "U-Nets only."
    )
    WORKS_WITH = "U-Nets such as SD 1.5 and SDXL, fine-tunes of them, and bundles. Other models are refused."
    RETURN_TYPES = ("MODEL", "STRING")
    RETURN_NAMES = ("model", "blocks")
    OUTPUT_TOOLTIPS = (
        "The model without the named blocks. LoRAs on it before this node are merged in; the model at the input is not changed.",
        "The name, kind and parameters of every block, and whether it is removed.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        tip = (
            "Names of the blocks to leave out, one a line or with commas; * stands for any characters: down_blocks.0.attentions.* are the "
            "transformers at full size. Empty: nothing is left out, and the output blocks lists all names."
        )
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A U-Net: SD 1.5, SDXL, a fine-tune of them, or a bundle."}),
                "blocks": ("STRING", {"default": "", "multiline": True, "tooltip": tip}),
            }
        }

    def execute(self, model: Any, blocks: str) -> tuple[Any, str]:
        from ..core.operations.slim import skip_blocks

        return skip_blocks(model, blocks)


class BlockImportance:
    """A table of what every block of a U-Net costs and does."""

    DISPLAY_NAME = "Block Importance"
    CATEGORY = "RapidDraw/slim"
    SEARCH_ALIASES = ("which layers matter", "block weights", "layer sensitivity", "prune unet", "latency table", "profile blocks")
    DESCRIPTION = (
        "Shows which blocks of a U-Net are worth their time: for each one its milliseconds on this machine, its parameters, and how much "
        "the prediction changes without it. The block with the least change for a saved millisecond is the first to remove (SnapFusion, "
        "Algorithm 1). With a VAE and a scorer it also draws pictures without each block. U-Nets only."
    )
    WORKS_WITH = "U-Nets such as SD 1.5 and SDXL, fine-tunes of them, and bundles. Other models are refused."
    RETURN_TYPES = ("STRING", "IMAGE")
    RETURN_NAMES = ("table", "chart")
    OUTPUT_TOOLTIPS = (
        "A line a block: kind, parameters, milliseconds, share of the time, mean squared change of the raw output, change of the score.",
        "Two bars a block: its time, and the change without it.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        prompt_tip = "Prompts to rate with, one a line, 1 to 16. Take some of the kind that you draw."
        inner_tip = "Also rate the parts of each transformer: self-attention, cross-attention and feed-forward. On takes longer."
        size_tip = "Side of the pictures in pixels. Attention costs more at larger sizes, so take the one that you draw."
        scorer_tip = "The network for CLIP scores: a text bundle with its image tower beside it. Needs a VAE. none: no pictures are drawn."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A U-Net: SD 1.5, SDXL, a fine-tune of them, or a bundle."}),
                "clip": ("CLIP", {"tooltip": "Encodes the prompts."}),
                "prompts": ("STRING", {"default": "a photo of a fruit", "multiline": True, "tooltip": prompt_tip}),
                "size": ("INT", {"default": 512, "min": 64, "max": 4096, "step": 64, "tooltip": size_tip}),
                "inner_blocks": ("BOOLEAN", {"default": True, "tooltip": inner_tip}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "tooltip": "Chooses the noise that sampling starts from."}),
            },
            "optional": {
                "vae": ("VAE", {"tooltip": "Decodes the pictures that are scored. Needed with a scorer."}),
                "scorer": (_choices("text"), {"default": NONE, "tooltip": scorer_tip}),
            },
        }

    @classmethod
    def IS_CHANGED(cls, scorer: str | None = NONE, **_: Any) -> str:
        return content_of(scorer=scorer)

    def execute(
        self, model: Any, clip: Any, prompts: str, size: int, inner_blocks: bool, seed: int, vae: Any = None, scorer: str = NONE
    ) -> tuple[str, Tensor]:
        from ..core.operations.slim import Rate, rate_blocks
        from ..core.slim.blocks import KINDS, RESIDUAL, TRANSFORMER
        from ..core.slim.rating import draw, table

        kinds = KINDS if inner_blocks else (RESIDUAL, TRANSFORMER)
        judge = _load("text", scorer)
        rows = rate_blocks(model, clip, prompts, Rate(size, seed, kinds), None if judge is None else vae, judge)
        return table(rows), draw(rows)


NODE_CLASS_MAPPINGS = {"RapidDrawSkipBlocks": SkipBlocks, "RapidDrawBlockImportance": BlockImportance}
