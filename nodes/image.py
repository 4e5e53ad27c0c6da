"""Mark pictures as AI-generated (Rapid Diffusion, deployment)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs


class MarkAIGenerated:
    """A visible mark in a corner of every picture."""

    DISPLAY_NAME = "Mark as AI-Generated"
    CATEGORY = "RapidDraw/image"
    DESCRIPTION = (
        "Draws a small visible mark into a corner. To mark the file itself as well (PNG text and IPTC source type), "
        "save with Save Marked Image instead of Save Image."
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
                        "tooltip": "What the mark says. Without a font for it (Chinese on some machines) it says AI-generated.",
                    },
                ),
                "position": (list(POSITIONS), {"default": "bottom_right", "tooltip": "The corner the mark stands in."}),
                "opacity": (
                    "FLOAT",
                    {"default": 0.8, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": "0 leaves the picture untouched, 1 covers fully."},
                ),
            }
        }

    def execute(self, image: Tensor, text: str, position: str, opacity: float) -> tuple[Tensor]:
        from ..core.image.mark import mark_images

        return (mark_images(image, text, position, opacity),)


class SaveMarkedImage:
    """Save Image, with files that say they are AI-generated."""

    DISPLAY_NAME = "Save Marked Image"
    CATEGORY = "RapidDraw/image"
    DESCRIPTION = (
        "Saves PNG files like Save Image does, with the graph inside, and marks each file as AI-generated: Software, ai_generated=true and "
        "IPTC's digital source type trainedAlgorithmicMedia. Stock Save Image cannot do this, so use this one after Mark as AI-Generated. "
        "ComfyUI's --disable-metadata leaves the graph out; the mark stays."
    )
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = ()
    OUTPUT_NODE = True
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The pictures to save, best with a visible mark already."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "RapidDraw",
                        "tooltip": "Start of the file name; may name a sub-folder and hold %year%, %width% and the like.",
                    },
                ),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def execute(self, images: Tensor, filename_prefix: str, prompt: Any = None, extra_pnginfo: Any = None) -> dict[str, Any]:
        from ..core.graph.stock.image_files import save_path
        from ..core.host import current
        from ..core.image.png import write_marked_png
        from ..core.paths import output_dir

        if not current().saves_graphs:
            prompt = extra_pnginfo = None
        base = output_dir()
        folder, stem, counter = save_path(filename_prefix, base, images.shape[2], images.shape[1])
        saved = []
        for number, image in enumerate(images, counter):
            path = write_marked_png(folder / f"{stem}_{number:05}_.png", image, prompt, extra_pnginfo)
            subfolder = folder.relative_to(base.resolve()).as_posix()
            saved.append({"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": "output"})
        return {"ui": {"images": saved}}


NODE_CLASS_MAPPINGS = {"RapidDrawMarkAIGenerated": MarkAIGenerated, "RapidDrawSaveMarkedImage": SaveMarkedImage}
