"""A node that captions a folder of the user's own pictures (PanGu-Draw, section 5, "Dataset Construction")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs

_NO_MODEL = "none: template and subject"


class CaptionFolder:
    """A folder of pictures in, the same pictures with captions in a new folder out."""

    DISPLAY_NAME = "Caption Folder"
    CATEGORY = "RapidDraw/dataset"
    SEARCH_ALIASES = ("caption", "auto caption", "blip", "tagging", "captions for lora", "dataset card", "duplicates", "label pictures")
    DESCRIPTION = (
        "Prepares your own pictures for a training: writes a caption for each into a new folder, by a captioning model that you have "
        "(BLIP, GIT), else from a template such as 'a photo of X'. Damaged and small pictures and copies are left out, and a data card "
        "says how many and why. The sheet shows every picture with its caption, to be checked before any training."
    )
    RETURN_TYPES = ("STRING", "STRING", "IMAGE")
    RETURN_NAMES = ("folder", "report", "sheet")
    OUTPUT_TOOLTIPS = (
        "Name of the written folder, for the training nodes. Its captions.jsonl is a text file that you can correct.",
        "The data card: counts, sizes, captions, copies, what was left out and why; then each new caption.",
        "Up to 24 pictures with their captions below them.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.text.captioner import list_captioners

        model_tip = (
            "A captioning model of transformers: a folder in models/rapiddraw/llm or models/LLM with config.json and .safetensors (BLIP, "
            "GIT, vision-encoder-decoder). Nothing is downloaded. none: the template with the subject."
        )
        template_tip = "Words around the caption. The caption or the subject goes where the word object stands in braces."
        subject_tip = (
            "What is on the pictures, where no model says it: a name, a product. Empty: the name of each picture's own folder, else the "
            "words of its file name."
        )
        old_tip = (
            "only_missing: pictures that have captions keep them and get no new one. keep: the new one is added. drop: old ones are "
            "dropped."
        )
        return {
            "required": {
                "folder": ("STRING", {"default": "", "tooltip": "Name of the folder of pictures, in the input or output folder."}),
                "out": (
                    "STRING",
                    {"default": "dataset/captioned", "tooltip": "The folder to write, in the output folder. Pictures are linked."},
                ),
                "model": ([_NO_MODEL, *list_captioners()], {"default": _NO_MODEL, "tooltip": model_tip}),
                "template": ("STRING", {"default": "a photo of {object}", "tooltip": template_tip}),
                "subject": ("STRING", {"default": "", "tooltip": subject_tip}),
                "old_captions": (["only_missing", "keep", "drop"], {"default": "only_missing", "tooltip": old_tip}),
                "min_side": (
                    "INT",
                    {"default": 0, "min": 0, "max": 8192, "tooltip": "Fewest pixels of the shorter side; smaller pictures are left out."},
                ),
                "leave_out_copies": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "On: of pictures that look the same, in any size or file, the first is kept."},
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, folder: str | None = None, **_: Any) -> str:
        from ..core.data.places import fingerprint

        return fingerprint(folder)

    def execute(
        self, folder: str, out: str, model: str, template: str, subject: str, old_captions: str, min_side: int, leave_out_copies: bool
    ) -> dict[str, Any]:
        from ..core.data.caption_folder import Captions, caption_folder
        from ..core.data.places import new_folder, relative_name, resolve_folder
        from ..core.data.sheet import caption_sheet
        from ..core.text.captioner import load_captioner
        from ..core.text.causal import resolve_model

        how = Captions(template, subject, old_captions, min_side, leave_out_copies)
        how.check()
        source = resolve_folder(folder)
        captioner = None if model == _NO_MODEL else load_captioner(resolve_model(model))
        found = caption_folder(source, new_folder(out), how, captioner)
        sheet: Tensor = caption_sheet(found.texts)
        return {"ui": {"text": [found.report]}, "result": (relative_name(found.folder), found.report, sheet)}


NODE_CLASS_MAPPINGS = {"RapidDrawCaptionFolder": CaptionFolder}
