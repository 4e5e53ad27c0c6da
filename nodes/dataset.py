"""Nodes that draw, filter and caption dataset folders (PanGu-Draw, section 5, "Dataset Construction")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import content_of

if TYPE_CHECKING:
    from ..core.knowledge.graph import KnowledgeGraph
    from .sockets import Inputs

_FOLDER_TIP = "Name of the folder of pictures, in the input or output folder. It holds a captions.jsonl, or a .txt beside each picture."
_OUT_TIP = "The folder to write, in the output folder. The pictures are linked into it; the first folder is not changed."
_SCORER_TIP = "The network for CLIP scores: a text bundle with its image tower beside it. It can only judge what it was trained on."
_JUDGE_TIP = "A classifier of attributes. It knows Orchard pictures (this pack's drawings); for other pictures choose none."
NONE = "none"


def _choices(kind: str) -> list[str]:
    from ..core.bundles.find import list_bundles
    from ..core.operations.rank import list_scorers

    return [NONE, *(list_scorers() if kind == "text" else list_bundles(kind))]


def _load(kind: str, name: str, knowledge: KnowledgeGraph | None = None) -> Any:
    """Return the scorer (kind `text`) or the classifier (kind `judge`) of that name; `None` for none."""
    if name == NONE:
        return None
    from ..core.bundles.find import resolve_bundle
    from ..core.scoring.clip_score import load_scorer
    from ..core.scoring.judge import load_judge

    path = resolve_bundle(name, kind)
    return load_scorer(path, knowledge) if kind == "text" else load_judge(path)


class _OfFolder:
    """A node that runs again when its folder, or a file that it reads, has changed."""

    @classmethod
    def IS_CHANGED(
        cls, folder: str | None = None, scorer: str | None = NONE, judge: str | None = NONE, aesthetic_head: str | None = None, **_: Any
    ) -> str:
        from ..core.data.places import fingerprint

        head = {} if aesthetic_head is None else {"head": aesthetic_head}
        return f"{fingerprint(folder)}-{content_of(scorer=scorer, judge=judge, **head)}"


class OrchardDataset(_OfFolder):
    """A folder of demonstration pictures."""

    DISPLAY_NAME = "Draw Orchard Dataset"
    CATEGORY = "RapidDraw/dataset"
    SEARCH_ALIASES = ("example dataset", "demo pictures", "synthetic dataset", "toy data")
    DESCRIPTION = (
        "Draws pictures to try trainers and filters on, before you have your own: imaginary fruits on scenery (the Orchard), with "
        "captions in English and Chinese, in the folder layout that all trainers of this pack read. A share of the pictures can have "
        "flaws, as pictures from the web have."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("folder",)
    OUTPUT_TOOLTIPS = ("The folder's name, for the other dataset nodes.",)
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        spoiled_tip = (
            "Share of the pictures with a flaw, 0 to 1: blurred, marked like a stock site's, or with the captions of another picture."
        )
        return {
            "required": {
                "folder": ("STRING", {"default": "orchard", "tooltip": "The folder to write, in the output folder."}),
                "count": (
                    "INT",
                    {
                        "default": 48,
                        "min": 1,
                        "max": 100000,
                        "tooltip": "How many pictures, 1 to 100000. About 30 are drawn in a second at 128 pixels.",
                    },
                ),
                "size": (
                    "INT",
                    {"default": 128, "min": 64, "max": 512, "step": 8, "tooltip": "Side of the square pictures, 64 to 512 pixels."},
                ),
                "spoiled": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": spoiled_tip}),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "control_after_generate": True,
                        "tooltip": "Another seed gives other pictures.",
                    },
                ),
            }
        }

    def execute(self, folder: str, count: int, size: int, spoiled: float, seed: int) -> dict[str, Any]:
        from ..core.data.places import new_folder, relative_name
        from ..core.data.spoil import write_crawl

        name = relative_name(write_crawl(new_folder(folder), count, size, seed, spoiled))
        return {"ui": {"text": [f"{count} pictures in {name}/"]}, "result": (name,)}


class FilterDataset(_OfFolder):
    """The pictures of a folder that are worth training on."""

    DISPLAY_NAME = "Filter Dataset"
    CATEGORY = "RapidDraw/dataset"
    WORKS_WITH = "Any CLIP Vision model; for CLIP scores, the CLIP that was trained with it. Without these, this pack's own networks."
    SEARCH_ALIASES = (
        "clean dataset", "remove watermark pictures", "watermark", "aesthetic score", "clip score filter", "dataset curation",
        "aesthetic predictor", "duplicates", "similar pictures",
    )  # fmt: skip
    DESCRIPTION = (
        "Keeps the pictures of a folder that are worth training on: by resolution, aspect ratio, looks, watermark and CLIP score, the "
        "filters of PanGu-Draw's dataset (section 5). Your own CLIP, CLIP Vision model and aesthetic head can score the pictures, and near "
        "copies are found. The kept pictures are linked into a new folder, with captions and maps; nothing is deleted. filter.jsonl lists "
        "every measure and reason."
    )
    RETURN_TYPES = ("STRING", "STRING", "IMAGE")
    RETURN_NAMES = ("folder", "report", "sheet")
    OUTPUT_TOOLTIPS = (
        "Name of the written folder.",
        "How many were kept, why the others were not, and the range of each measure.",
        "Some of the kept pictures in green frames, then some of the others in red frames.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        looks_tip = (
            "Lowest score for looks, 0 to 1; 0: any. Without a judge the score comes from sharpness, contrast, colour and exposure; with "
            "one it is how surely the judge reads the picture. Neither is trained on people's taste."
        )
        from ..core.scoring.find import list_heads

        clip_tip = (
            "Your own CLIP for min_clip, with clip_vision in the place of the scorer. The two must have been trained together: "
            "clip_l.safetensors by Load CLIP with ViT-L/14, SDXL's CLIP with ViT-bigG. A CLIP inside an SD 1.5 checkpoint does not fit."
        )
        vision_tip = "Your own CLIP Vision model. It reads the pictures for clip, aesthetic_head and max_likeness."
        head_tip = (
            "A head that scores looks by the embedding of clip_vision, trained on people's votes: a .safetensors or .pth in "
            "models/rapiddraw with aesthetic or linearMSE in its name, such as LAION's for ViT-L/14."
        )
        score_tip = "Lowest score of the aesthetic head; higher keeps fewer pictures. LAION's go from 1 to 10. 0: any."
        likeness_tip = (
            "Largest likeness to a picture kept before, 0 to 1, by clip_vision: of pictures that are more alike the first is kept. "
            "0.95 finds near copies; lower finds other views of one thing. 0: any."
        )
        mark_tip = (
            "Highest likeness of a corner to the folder's common mark, 0 to 1; 0: any. 0.5 is a good limit. A mark is what several "
            "pictures have in common in a corner."
        )
        return {
            "required": {
                "folder": ("STRING", {"default": "orchard", "tooltip": _FOLDER_TIP}),
                "out": ("STRING", {"default": "filtered", "tooltip": _OUT_TIP}),
                "min_side": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 65536,
                        "tooltip": "Fewest pixels of the shorter side; higher keeps fewer pictures. 0: any.",
                    },
                ),
                "max_aspect": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 100.0,
                        "step": 0.1,
                        "tooltip": "Largest ratio of the longer to the shorter side; lower keeps fewer pictures. 0: any.",
                    },
                ),
                "min_aesthetics": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": looks_tip}),
                "max_watermark": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": mark_tip}),
                "min_clip": (
                    "FLOAT",
                    {
                        "default": -1.0,
                        "min": -1.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Lowest CLIP score of a picture's best caption, -1 to 1; higher keeps fewer pictures. -1: any.",
                    },
                ),
                "scorer": (_choices("text"), {"default": NONE, "tooltip": _SCORER_TIP}),
                "judge": (_choices("judge"), {"default": NONE, "tooltip": _JUDGE_TIP}),
            },
            "optional": {
                "knowledge": ("KNOWLEDGE_GRAPH", {"tooltip": "Tells the scorer what the names in captions mean."}),
                "clip": ("CLIP", {"tooltip": clip_tip}),
                "clip_vision": ("CLIP_VISION", {"tooltip": vision_tip}),
                "aesthetic_head": ([NONE, *list_heads()], {"default": NONE, "tooltip": head_tip}),
                "min_score": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": score_tip}),
                "max_likeness": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": likeness_tip}),
            },
        }

    def execute(
        self,
        folder: str,
        out: str,
        min_side: int,
        max_aspect: float,
        min_aesthetics: float,
        max_watermark: float,
        min_clip: float,
        scorer: str,
        judge: str,
        knowledge: KnowledgeGraph | None = None,
        clip: Any = None,
        clip_vision: Any = None,
        aesthetic_head: str = NONE,
        min_score: float = 0.0,
        max_likeness: float = 0.0,
    ) -> dict[str, Any]:
        from ..core.data.filters import Limits, filter_folder
        from ..core.data.places import new_folder, relative_name, resolve_folder
        from ..core.data.sheet import contact_sheet
        from ..core.operations.filter import vision_of

        source = resolve_folder(folder)
        limits = Limits(min_side, max_aspect, min_aesthetics, min_clip, max_watermark, min_score, max_likeness)
        limits.check()
        vision, doubts = vision_of(clip, clip_vision, aesthetic_head, min_clip > -1)
        found = filter_folder(source, limits, new_folder(out), _load("text", scorer, knowledge), _load("judge", judge), vision)
        report = "\n".join([found.report, *doubts])
        sheet = contact_sheet(*([source / row.file_name for row in rows] for rows in (found.kept, found.dropped)))
        return {"ui": {"text": [report]}, "result": (relative_name(new_folder(out)), report, sheet)}


class RecaptionDataset(_OfFolder):
    """New captions for the pictures of a folder."""

    DISPLAY_NAME = "Recaption Dataset"
    CATEGORY = "RapidDraw/dataset"
    SEARCH_ALIASES = ("caption", "auto caption", "tagging", "tagger", "label pictures", "captions for lora")
    DESCRIPTION = (
        "Gives a folder of pictures captions that say what is in them, in English and Chinese, and drops old captions, or those that do "
        "not match (PanGu-Draw, section 5). The new captions come from scene graphs or a classifier of attributes, and describe Orchard "
        "pictures (this pack's drawings). The result is a new folder."
    )
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("folder", "report")
    OUTPUT_TOOLTIPS = ("Name of the written folder.", "How many captions are new, kept and dropped, with a few examples.")
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        old_tip = "Old captions. drop: none is kept. keep: all. matching: those that match their picture, by the scorer."
        return {
            "required": {
                "folder": ("STRING", {"default": "filtered", "tooltip": _FOLDER_TIP}),
                "out": ("STRING", {"default": "recaptioned", "tooltip": _OUT_TIP}),
                "source": (
                    ["scene", "judge"],
                    {
                        "default": "scene",
                        "tooltip": "scene: the scene graph of each picture, or the judge where there is none. judge: always the judge.",
                    },
                ),
                "languages": (["en, zh", "en", "zh"], {"default": "en, zh", "tooltip": "Languages of the new captions."}),
                "captions_each": (
                    "INT",
                    {"default": 1, "min": 1, "max": 8, "tooltip": "New captions for each picture and language, 1 to 8."},
                ),
                "least_sure": (
                    "FLOAT",
                    {
                        "default": 0.8,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "How sure the judge must be of an attribute to name it, 0 to 1. Higher says less and errs less.",
                    },
                ),
                "old_captions": (["drop", "keep", "matching"], {"default": "drop", "tooltip": old_tip}),
                "min_clip": (
                    "FLOAT",
                    {
                        "default": 0.2,
                        "min": -1.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "CLIP score from which an old caption matches, -1 to 1. Higher keeps fewer.",
                    },
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "control_after_generate": True,
                        "tooltip": "Chooses the sentences' templates.",
                    },
                ),
                "scorer": (_choices("text"), {"default": NONE, "tooltip": _SCORER_TIP}),
                "judge": (_choices("judge"), {"default": NONE, "tooltip": _JUDGE_TIP}),
            },
            "optional": {"knowledge": ("KNOWLEDGE_GRAPH", {"tooltip": "Tells the scorer what the names in captions mean."})},
        }

    def execute(
        self,
        folder: str,
        out: str,
        source: str,
        languages: str,
        captions_each: int,
        least_sure: float,
        old_captions: str,
        min_clip: float,
        seed: int,
        scorer: str,
        judge: str,
        knowledge: KnowledgeGraph | None = None,
    ) -> dict[str, Any]:
        from ..core.data.places import new_folder, relative_name, resolve_folder
        from ..core.data.recaption import Captioning, recaption_folder

        codes = tuple(code.strip() for code in languages.split(","))
        how = Captioning(source, codes, captions_each, least_sure, old_captions, min_clip, seed)
        found = recaption_folder(resolve_folder(folder), new_folder(out), how, _load("judge", judge), _load("text", scorer, knowledge))
        return {"ui": {"text": [found.report]}, "result": (relative_name(found.folder), found.report)}


NODE_CLASS_MAPPINGS = {
    "RapidDrawOrchardDataset": OrchardDataset,
    "RapidDrawFilterDataset": FilterDataset,
    "RapidDrawRecaptionDataset": RecaptionDataset,
}
