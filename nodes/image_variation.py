"""A node that uses a picture as a prompt (the image variation model that PanGu-Draw fuses with, section 5.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .condition_maps import tower_choices
from .loaders import bundle_choices, content_of

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs


class ImageVariationEncode:
    """IMAGE in, CONDITIONING out."""

    DISPLAY_NAME = "Image Variation Encode"
    CATEGORY = "RapidDraw/conditioning"
    WORKS_WITH = (
        "The model that the projection was trained for. A family that takes no added tokens is refused: HunyuanDiT, HiDream, Krea 2."
    )
    SEARCH_ALIASES = ("ip adapter", "ipadapter", "image prompt", "reference image", "unclip", "variation", "similar picture", "clip vision")
    DESCRIPTION = (
        "Uses a picture as a prompt. Alone it draws variations of the picture; after a text it brings the picture's contents into the "
        "text's scene, as IP-Adapter does. The picture's embedding becomes tokens that the model attends to: the image variation that "
        "PanGu-Draw fuses with (section 5.2). For the model that the projection was trained for."
    )
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("The picture's tokens, after those of the text. A batch of pictures gives a batch of prompts.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        tokens = "The projection from the picture's embedding to tokens, from Train Image Tokens or python -m rapiddraw train image_tokens."
        trained = "A projection's name, from Train Image Tokens, in the place of tokens_name."
        strength = "How strongly the picture acts, 0 to 10. 0: the text alone. 1: as trained. Higher follows the picture more closely."
        vision = "Used instead of the image tower. It needs a projection that was trained for this CLIP_VISION; the shipped one was not."
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The picture to vary, or a batch of them."}),
                "tokens_name": (bundle_choices("image_tokens"), {"tooltip": tokens}),
                "tower_name": (
                    tower_choices("image")[0],
                    {"tooltip": "The image tower (the picture's encoder) that the projection was trained for."},
                ),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.05, "tooltip": strength}),
            },
            "optional": {
                "conditioning": (
                    "CONDITIONING",
                    {"tooltip": "A text to follow as well. Without it the picture alone is the prompt."},
                ),
                "clip_vision": ("CLIP_VISION", {"tooltip": vision}),
                "model": (
                    "MODEL",
                    {
                        "tooltip": "The model that will draw. With it, a width that does not fit is refused here, and a picture alone gets "
                        "the empty pooled state that models such as SDXL and SD 3 read."
                    },
                ),
                "trained": ("STRING", {"forceInput": True, "tooltip": trained}),
            },
        }

    @classmethod
    def IS_CHANGED(cls, tokens_name: str | None = None, tower_name: str | None = None, **_: Any) -> str:
        return content_of(image_tokens=tokens_name, image=tower_name)

    def execute(
        self,
        image: Tensor,
        tokens_name: str,
        tower_name: str,
        strength: float,
        conditioning: Any = None,
        clip_vision: Any = None,
        model: Any = None,
        trained: str = "",
    ) -> tuple[Any]:
        from ..core.bundles.find import resolve_bundle
        from ..core.host import current
        from ..core.text.bilingual import check_width
        from ..core.text.image_tokens import encode_variation

        tokens, tower = resolve_bundle(trained or tokens_name, "image_tokens"), resolve_bundle(tower_name, "image")
        host = current().model
        width, needed = (None, ()) if model is None else (host.pooled_width(model), host.needed_details(model))
        encoded = encode_variation(image, tokens, tower, strength, conditioning, clip_vision, width, needed)
        if model is not None:
            check_width(current(), model, encoded, "")
        return (encoded,)


NODE_CLASS_MAPPINGS = {"RapidDrawImageVariationEncode": ImageVariationEncode}
