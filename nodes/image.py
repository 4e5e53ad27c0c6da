"""Nodes that mark pictures as AI-generated (Rapid Diffusion, section 5.1)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from .works_with import PICTURES

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs


class MarkAIGenerated:
    """A visible mark in a corner of every picture."""

    DISPLAY_NAME = "Mark as AI-Generated"
    CATEGORY = "RapidDraw/image"
    WORKS_WITH = PICTURES
    SEARCH_ALIASES = ("watermark", "label", "stamp", "disclosure", "ai act", "text overlay")
    ESSENTIALS_CATEGORY = "Image Tools"
    DESCRIPTION = (
        "Tells people that a machine drew the picture: a small mark in a corner. To tell programs as well, save with Save Marked Image. "
        "Rapid Diffusion marks every picture before it is sent (section 5.1)."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The same pictures with the mark. Nothing outside the mark changes.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.image.mark import DEFAULT_TEXT, POSITIONS

        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The pictures to mark."}),
                "text": (
                    "STRING",
                    {
                        "default": DEFAULT_TEXT,
                        "tooltip": (
                            "The words of the mark. Where no font has its characters (Chinese on some machines), the mark says "
                            "AI-generated."
                        ),
                    },
                ),
                "position": (list(POSITIONS), {"default": "bottom_right", "tooltip": "The corner for the mark."}),
                "opacity": (
                    "FLOAT",
                    {
                        "default": 0.8,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "0 to 1: 0 leaves the picture untouched, 1 covers it fully under the mark.",
                    },
                ),
            }
        }

    def execute(self, image: Tensor, text: str, position: str, opacity: float) -> tuple[Tensor]:
        from ..core.image.mark import mark_images

        return (mark_images(image, text, position, opacity),)


class SaveMarkedImage:
    """Save Image, with files that say that they are AI-generated."""

    DISPLAY_NAME = "Save Marked Image"
    CATEGORY = "RapidDraw/image"
    WORKS_WITH = PICTURES
    SEARCH_ALIASES = ("save image", "save png", "watermark", "metadata", "iptc", "disclosure", "ai act", "export")
    ESSENTIALS_CATEGORY = "Basics"
    DESCRIPTION = (
        "Saves PNG files as Save Image does, and tells programs that a machine drew them: each file gets Software, ai_generated=true and "
        "IPTC's source type trainedAlgorithmicMedia. The graph is saved inside, unless ComfyUI runs with --disable-metadata. For a "
        "visible mark put Mark as AI-Generated before this node."
    )
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ()
    OUTPUT_NODE = True
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The pictures to save."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "RapidDraw",
                        "tooltip": "Start of the file's name. It may name a sub-folder and hold %year%, %width% and the like.",
                    },
                ),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def execute(self, images: Tensor, filename_prefix: str, prompt: Any = None, extra_pnginfo: Any = None) -> dict[str, Any]:
        from ..core.files import write_numbered
        from ..core.graph.stock.image_files import save_path
        from ..core.host import current
        from ..core.image.png import write_marked_png
        from ..core.paths import output_dir

        if not current().process.saves_graphs():
            prompt = extra_pnginfo = None
        base = output_dir()
        folder, stem, counter = save_path(filename_prefix, base, images.shape[2], images.shape[1])
        saved = []
        for image in images:
            write = partial(write_marked_png, image=image, prompt=prompt, extra=extra_pnginfo)
            path, number = write_numbered(folder, lambda number: f"{stem}_{number:05}_.png", counter, write)
            counter = number + 1
            subfolder = folder.relative_to(base.resolve()).as_posix()
            saved.append({"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": "output"})
        return {"ui": {"images": saved}}


NODE_CLASS_MAPPINGS = {"RapidDrawMarkAIGenerated": MarkAIGenerated, "RapidDrawSaveMarkedImage": SaveMarkedImage}
