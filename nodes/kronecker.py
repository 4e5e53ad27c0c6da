"""A node that loads a Kronecker adapter (ELR-Diffusion, section 2.4, equation 9) onto any MODEL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import bundle_choices, content_of

if TYPE_CHECKING:
    from .sockets import Inputs


class KroneckerAdapterLoader:
    """MODEL in, MODEL out, with the changes of an adapter added to its weights."""

    DISPLAY_NAME = "Load Kronecker Adapter"
    CATEGORY = "RapidDraw/low-rank"
    WORKS_WITH = "Models that have the layers which the adapter names. Adapters of this pack are trained on U-Nets."
    SEARCH_ALIASES = ("lora", "load lora", "lokr", "lycoris", "adapter", "locon")
    DESCRIPTION = (
        "Adds a trained change to a model, as Load LoRA does with a LoRA. With the same number of parameters, a Kronecker adapter changes "
        "the weights in many more directions (ELR-Diffusion, section 2.4, equation 9). For any model whose layers the adapter names. Chain "
        "several; LoRAs and merges work beside it."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The adapted model; the model at the input is not changed.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        tip = "An adapter for this model, from python -m rapiddraw train kronecker."
        amount = (
            "How strongly the adapter acts, -100 to 100. 0: not at all; 1: as trained; other values in proportion; below 0: the opposite."
        )
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that the adapter was trained for, or a fine-tune of it."}),
                "adapter_name": (bundle_choices("adapter"), {"tooltip": tip}),
                "strength": ("FLOAT", {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01, "tooltip": amount}),
            }
        }

    @classmethod
    def IS_CHANGED(cls, adapter_name: str | None = None, **_: Any) -> str:
        return content_of(adapter=adapter_name)

    def execute(self, model: Any, adapter_name: str, strength: float) -> tuple[Any]:
        from ..core.bundles.find import resolve_bundle
        from ..core.operations.adapt import adapt_model

        return (adapt_model(model, resolve_bundle(adapter_name, "adapter"), strength),)


NODE_CLASS_MAPPINGS = {"RapidDrawKroneckerAdapterLoader": KroneckerAdapterLoader}
