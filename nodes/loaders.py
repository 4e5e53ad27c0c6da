"""The node that loads what this project's recipes have trained."""

from __future__ import annotations

from typing import Any


def bundle_choices(kind: str) -> list[str]:
    """Names of the bundles of a kind for a COMBO; where there are none, one entry that says what to do (an empty COMBO cannot run)."""
    from ..core.paths import list_bundles

    return list_bundles(kind) or [f"(no {kind} bundle found: train one or put it into weights/)"]


class BundleLoader:
    """Loads a U-Net, the text encoder it was trained with and the VAE whose latent space it lives in."""

    DISPLAY_NAME = "Load Bundles (model, text encoder, VAE)"
    CATEGORY = "RapidDraw/loaders"
    DESCRIPTION = (
        "Loads three trained parts as a MODEL, a CLIP and a VAE that work with all other nodes. What a file is, its own metadata says; "
        "parts that do not belong together are refused with the reason."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    RETURN_NAMES = ("model", "clip", "vae")
    OUTPUT_TOOLTIPS = (
        "The diffusion model, for samplers and guiders.",
        "The text encoder, for CLIP Text Encode and KG Text Encode.",
        "The VAE, for VAE Decode and VAE Encode.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "unet_name": (bundle_choices("unet"), {"tooltip": "The diffusion model: a bundle of kind unet in a weights folder."}),
                "text_name": (
                    bundle_choices("text"),
                    {"tooltip": "The text encoder the diffusion model was trained with: a bundle of kind text."},
                ),
                "vae_name": (
                    bundle_choices("vae"),
                    {"tooltip": "The VAE whose latents the diffusion model was trained on: a bundle of kind vae."},
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, unet_name: str, text_name: str, vae_name: str, **_: Any) -> str:
        from ..core.paths import file_sha256, resolve_bundle

        names = (("unet", unet_name), ("text", text_name), ("vae", vae_name))
        return "-".join(file_sha256(resolve_bundle(name, kind)) for kind, name in names)

    def execute(self, unet_name: str, text_name: str, vae_name: str) -> tuple[Any, Any, Any]:
        from ..core.host import current
        from ..core.paths import resolve_bundle

        return current().load_bundles(resolve_bundle(unet_name, "unet"), resolve_bundle(text_name, "text"), resolve_bundle(vae_name, "vae"))


NODE_CLASS_MAPPINGS = {"RapidDrawBundleLoader": BundleLoader}
