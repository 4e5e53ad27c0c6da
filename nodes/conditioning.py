"""Nodes for models that read two text encoders (PanGu-Draw, section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import bundle_choices, content_of
from .works_with import ANY_MODEL, OWN

if TYPE_CHECKING:
    from .sockets import Inputs

_MODEL_TIP = "The model that will draw. With it, a width that does not fit is refused here, with the numbers."


class TextLoader:
    """One text encoder, for models that read several."""

    DISPLAY_NAME = "Load Text Encoder"
    CATEGORY = "RapidDraw/loaders"
    WORKS_WITH = OWN
    SEARCH_ALIASES = ("load clip", "clip loader", "second text encoder", "chinese clip", "text encoder loader")
    DESCRIPTION = (
        "Loads one text encoder without a model, for a model that reads two: Bilingual Text Encode takes a Chinese and an English one."
    )
    RETURN_TYPES = ("CLIP",)
    RETURN_NAMES = ("clip",)
    OUTPUT_TOOLTIPS = ("The text encoder.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"text_name": (bundle_choices("text"), {"tooltip": "A bundle of kind text in a weights folder."})}}

    @classmethod
    def IS_CHANGED(cls, text_name: str | None = None, **_: Any) -> str:
        return content_of(text=text_name)

    def execute(self, text_name: str) -> tuple[Any]:
        from ..core.bundles.find import resolve_bundle
        from ..core.host import current

        return (current().clip.load(resolve_bundle(text_name, "text")),)


class BilingualTextEncode:
    """One prompt through a Chinese and an English encoder."""

    DISPLAY_NAME = "Bilingual Text Encode"
    CATEGORY = "RapidDraw/conditioning"
    WORKS_WITH = "Models that were trained with two encoders side by side, such as the shipped bilingual model."
    SEARCH_ALIASES = ("chinese", "chinese prompt", "mandarin", "two text encoders", "multilingual")
    DESCRIPTION = (
        "Lets a prompt be in Chinese, English or both, for a model that was trained with an encoder of each language. Both encoders read "
        "the whole prompt; their features are put side by side (PanGu-Draw, section 5)."
    )
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("The prompt as both encoders read it, with the English encoder's pooled state.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        mode_tip = (
            "feature: each token is as wide as both encoders together (768 + 1280 in PanGu-Draw's released model); the shorter text is "
            "padded. token: one text after the other, for two encoders of the width that the model reads."
        )
        return {
            "required": {
                "clip_zh": ("CLIP", {"tooltip": "The Chinese text encoder. Its features come first."}),
                "clip_en": ("CLIP", {"tooltip": "The English text encoder. Its features come second, and its pooled state is used."}),
                "text": (
                    "STRING",
                    {
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "The prompt, in Chinese, English or both. (word:1.2) gives a word 1.2 times the weight.",
                    },
                ),
                "mode": (["feature", "token"], {"default": "feature", "tooltip": mode_tip}),
            },
            "optional": {"model": ("MODEL", {"tooltip": _MODEL_TIP})},
        }

    def execute(self, clip_zh: Any, clip_en: Any, text: str, mode: str, model: Any = None) -> tuple[Any]:
        from ..core.host import current
        from ..core.text.bilingual import check_width, encode_bilingual

        host = current()
        encoded = encode_bilingual(host, clip_zh, clip_en, text, mode)
        if model is not None:
            check_width(host, model, encoded, "both encoders" if mode == "feature" else "each encoder")
        return (encoded,)


class ConditioningConcatFeature:
    """The features of two conditionings, side by side."""

    DISPLAY_NAME = "Conditioning Concat (Features)"
    CATEGORY = "RapidDraw/conditioning"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("concat conditioning", "combine conditioning", "join prompts", "dual clip", "two text encoders")
    DESCRIPTION = (
        "Joins two encoded prompts for a model that reads two text encoders: the features stand side by side in each token. The stock "
        "Conditioning (Concat) puts the tokens one after the other instead. "
        "For any model."
    )
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("Tokens as wide as both together, with the area, mask and range of steps of the first.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        second_tip = "Its features come second. The shorter of the two is filled up with its last token, which is padding as a rule."
        return {
            "required": {
                "first": ("CONDITIONING", {"tooltip": "Its features come first in each token."}),
                "second": ("CONDITIONING", {"tooltip": second_tip}),
                "pooled_from": (
                    ["second", "first"],
                    {
                        "default": "second",
                        "tooltip": "Whose pooled state the result has. PanGu-Draw's released model takes the English, second one's.",
                    },
                ),
            },
            "optional": {"model": ("MODEL", {"tooltip": _MODEL_TIP})},
        }

    def execute(self, first: Any, second: Any, pooled_from: str, model: Any = None) -> tuple[Any]:
        from ..core.host import current
        from ..core.text.bilingual import check_width, joined_conditioning

        joined = joined_conditioning(first, second, "feature", pooled_from)
        if model is not None:
            check_width(current(), model, joined, f"{first[0][0].shape[2]} + {second[0][0].shape[2]}")
        return (joined,)


NODE_CLASS_MAPPINGS = {
    "RapidDrawTextLoader": TextLoader,
    "RapidDrawBilingualTextEncode": BilingualTextEncode,
    "RapidDrawConditioningConcatFeature": ConditioningConcatFeature,
}
