"""The node that loads trained bundles, and what other nodes need to list and fingerprint their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .works_with import OWN

if TYPE_CHECKING:
    from .sockets import Inputs


def bundle_choices(kind: str) -> list[str]:
    """Return the names of the bundles of a kind for a COMBO; where there are none, one entry that says what to do."""
    from ..core.bundles.find import list_bundles

    return list_bundles(kind) or [f"(no {kind} bundle found: train one or put it into weights/)"]


def content_of(**names: str | None) -> str:
    """Return a fingerprint of the contents of the files with these names, for IS_CHANGED.

    A keyword is the kind of its file: a bundle's kind, `kg`, `upscaler`, `head`, or `scorer` for a text bundle with its image tower. A name
    without a file ("none", or a file that is gone) counts as itself. A name that comes by a link is `None`: it is not known before the
    graph runs.
    """
    from ..core.bundles.find import resolve_bundle
    from ..core.errors import RapidDrawError
    from ..core.knowledge.choices import resolve_graph
    from ..core.paths import file_sha256, image_bundle_path
    from ..core.scoring.find import resolve_network
    from ..core.upscale.find import files_of, resolve_upscaler

    def content(kind: str, name: str) -> str:
        if kind == "scorer":
            text = resolve_bundle(name, "text")
            return f"{file_sha256(text)}-{file_sha256(image_bundle_path(text))}"
        if kind == "kg":
            return file_sha256(resolve_graph(name))
        if kind == "head":
            return file_sha256(resolve_network(name))
        files = files_of(resolve_upscaler(name)) if kind == "upscaler" else [resolve_bundle(name, kind)]
        return "-".join(map(file_sha256, files))

    found = []
    for kind, name in names.items():
        try:
            found.append(content(kind, name or ""))
        except RapidDrawError:
            found.append(str(name))
    return "-".join(found)


class BundleLoader:
    """A U-Net, with the text encoder and the VAE that it was trained with."""

    DISPLAY_NAME = "Load Bundles (model, text encoder, VAE)"
    CATEGORY = "RapidDraw/loaders"
    WORKS_WITH = OWN
    SEARCH_ALIASES = ("load model", "checkpoint", "model loader", "load checkpoint", "unet loader", "text encoder", "vae loader")
    ESSENTIALS_CATEGORY = "Basics"
    DESCRIPTION = (
        "Loads everything that drawing needs, as one MODEL, CLIP and VAE that work with all other nodes. Each part is a bundle: a "
        ".safetensors file whose metadata says what it holds. Parts that do not belong together are refused, with the reason."
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
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "unet_name": (
                    bundle_choices("unet"),
                    {"tooltip": "The diffusion model: a bundle of kind unet in a weights folder, such as models/rapiddraw."},
                ),
                "text_name": (
                    bundle_choices("text"),
                    {"tooltip": "The text encoder that the diffusion model was trained with: a bundle of kind text."},
                ),
                "vae_name": (
                    bundle_choices("vae"),
                    {"tooltip": "The VAE that made the latents for the diffusion model's training: a bundle of kind vae."},
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, unet_name: str | None = None, text_name: str | None = None, vae_name: str | None = None, **_: Any) -> str:
        return content_of(unet=unet_name, text=text_name, vae=vae_name)

    def execute(self, unet_name: str, text_name: str, vae_name: str) -> tuple[Any, Any, Any]:
        from ..core.bundles.find import resolve_bundle
        from ..core.host import current

        return current().load_bundles(resolve_bundle(unet_name, "unet"), resolve_bundle(text_name, "text"), resolve_bundle(vae_name, "vae"))


NODE_CLASS_MAPPINGS = {"RapidDrawBundleLoader": BundleLoader}
