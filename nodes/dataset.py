"""Dataset folders: draw one, filter one, caption one anew (PanGu-Draw, section 4, dataset construction)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import content_of

if TYPE_CHECKING:
    from ..core.knowledge.graph import KnowledgeGraph
    from .sockets import Inputs

_FOLDER_TIP = "The folder of pictures, by its name in the input or the output folder: captions.jsonl, or a name.txt beside each picture."
_OUT_TIP = "The folder to write, in the output folder. Pictures are linked into it; nothing in the first folder changes."
_SCORER_TIP = "What gives CLIP scores: a text bundle with its image tower beside it. It can only tell what it was trained on."
_JUDGE_TIP = "An attribute classifier. It knows the Orchard's pictures; for others choose none."
NONE = "none"


def _choices(kind: str) -> list[str]:
    from ..core.bundles.find import list_bundles
    from ..core.operations.rank import list_scorers

    return [NONE, *(list_scorers() if kind == "text" else list_bundles(kind))]


def _load(kind: str, name: str, knowledge: KnowledgeGraph | None = None) -> Any:
    """The scorer (`text`) or the classifier (`judge`) of that name; `None` for none."""
    if name == NONE:
        return None
    from ..core.bundles.find import resolve_bundle
    from ..core.scoring.clip_score import load_scorer
    from ..core.scoring.judge import load_judge

    path = resolve_bundle(name, kind)
    return load_scorer(path, knowledge) if kind == "text" else load_judge(path)


class _OfFolder:
    """Runs again when what lies in its folder, or a file that it reads, has changed."""

    @classmethod
    def IS_CHANGED(cls, folder: str | None = None, scorer: str | None = NONE, judge: str | None = NONE, **_: Any) -> str:
        from ..core.data.places import fingerprint

        return f"{fingerprint(folder)}-{content_of(scorer=scorer, judge=judge)}"


class OrchardDataset(_OfFolder):
    """A folder of demonstration pictures."""

    DISPLAY_NAME = "Draw Orchard Dataset"
    CATEGORY = "RapidDraw/dataset"
    DESCRIPTION = (
        "Draws pictures of the demonstration world with captions in two languages into the output folder, in the layout that every trainer "
        "here reads. A share of them can be spoiled, as pictures from the web are, to try the filters on."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("folder",)
    OUTPUT_TOOLTIPS = ("The folder's name, for the other dataset nodes.",)
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        spoiled_tip = "Share of pictures with a flaw: blurred, marked like a stock site's, or with the captions of another picture."
        return {
            "required": {
                "folder": ("STRING", {"default": "orchard", "tooltip": "The folder to write, in the output folder."}),
                "count": ("INT", {"default": 48, "min": 1, "max": 100000, "tooltip": "How many pictures; about 30 a second at 128 px."}),
                "size": ("INT", {"default": 128, "min": 64, "max": 512, "step": 8, "tooltip": "Their side in pixels."}),
                "spoiled": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": spoiled_tip}),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "control_after_generate": True,
                        "tooltip": "Another seed, other pictures.",
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
    DESCRIPTION = (
        "Chooses pictures by resolution, aspect ratio, looks, watermark and CLIP score, as PanGu-Draw's dataset was made. Those that pass "
        "are linked into a new folder with their captions and maps; nothing is deleted. Every measure and reason is written beside them."
    )
    RETURN_TYPES = ("STRING", "STRING", "IMAGE")
    RETURN_NAMES = ("folder", "report", "sheet")
    OUTPUT_TOOLTIPS = (
        "The name of the folder that was written.",
        "How many were kept, why others were not, and the range of each measure.",
        "Some of the kept pictures in green frames, then some of those left out in red.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        looks_tip = (
            "Least looks, 0 for any: a proxy of sharpness, contrast, colour and exposure from 0 to 1; with a judge, how surely it reads "
            "the picture. There is no network trained on people's taste here."
        )
        mark_tip = (
            "How like the folder's common mark a corner may look, 0 for any. A heuristic: what several pictures have in common in a corner "
            "is taken for a mark; 0.5 is a good limit."
        )
        return {
            "required": {
                "folder": ("STRING", {"default": "orchard", "tooltip": _FOLDER_TIP}),
                "out": ("STRING", {"default": "filtered", "tooltip": _OUT_TIP}),
                "min_side": ("INT", {"default": 0, "min": 0, "max": 65536, "tooltip": "Least pixels of the shorter side, 0 for any."}),
                "max_aspect": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "Longest side to shortest at most, 0 for any."},
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
                        "tooltip": "Least CLIP score of its best caption, -1: any.",
                    },
                ),
                "scorer": (_choices("text"), {"default": NONE, "tooltip": _SCORER_TIP}),
                "judge": (_choices("judge"), {"default": NONE, "tooltip": _JUDGE_TIP}),
            },
            "optional": {"knowledge": ("KNOWLEDGE_GRAPH", {"tooltip": "Tells the scorer what the names in captions stand for."})},
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
    ) -> dict[str, Any]:
        from ..core.data.filters import Limits, filter_folder
        from ..core.data.places import new_folder, relative_name, resolve_folder
        from ..core.data.sheet import contact_sheet

        source = resolve_folder(folder)
        limits = Limits(min_side, max_aspect, min_aesthetics, min_clip, max_watermark)
        found = filter_folder(source, limits, new_folder(out), _load("text", scorer, knowledge), _load("judge", judge))
        sheet = contact_sheet(*([source / row.file_name for row in rows] for rows in (found.kept, found.dropped)))
        return {"ui": {"text": [found.report]}, "result": (relative_name(new_folder(out)), found.report, sheet)}


class RecaptionDataset(_OfFolder):
    """New captions for a folder."""

    DISPLAY_NAME = "Recaption Dataset"
    CATEGORY = "RapidDraw/dataset"
    DESCRIPTION = (
        "Writes a folder anew with captions of what is on the pictures, in English and Chinese, from their scene graphs or an attribute "
        "classifier, and drops old captions or those that do not match (PanGu-Draw). It describes the Orchard; other pictures keep theirs."
    )
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("folder", "report")
    OUTPUT_TOOLTIPS = ("The name of the folder that was written.", "How many captions are new, kept and dropped, with a few examples.")
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        old_tip = "Old captions: drop them, keep them, or keep those that match their picture by the scorer."
        return {
            "required": {
                "folder": ("STRING", {"default": "filtered", "tooltip": _FOLDER_TIP}),
                "out": ("STRING", {"default": "recaptioned", "tooltip": _OUT_TIP}),
                "source": (
                    ["scene", "judge"],
                    {
                        "default": "scene",
                        "tooltip": "Scene graphs (where there is none, the judge), or always the judge.",
                    },
                ),
                "languages": (["en, zh", "en", "zh"], {"default": "en, zh", "tooltip": "Of the new captions."}),
                "captions_each": ("INT", {"default": 1, "min": 1, "max": 8, "tooltip": "New captions a picture and language."}),
                "least_sure": (
                    "FLOAT",
                    {"default": 0.8, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": "What the judge is less sure of is not said."},
                ),
                "old_captions": (["drop", "keep", "matching"], {"default": "drop", "tooltip": old_tip}),
                "min_clip": (
                    "FLOAT",
                    {"default": 0.2, "min": -1.0, "max": 1.0, "step": 0.01, "tooltip": "From which CLIP score an old caption matches."},
                ),
                "seed": (
                    "INT",
                    {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True, "tooltip": "Which templates are used."},
                ),
                "scorer": (_choices("text"), {"default": NONE, "tooltip": _SCORER_TIP}),
                "judge": (_choices("judge"), {"default": NONE, "tooltip": _JUDGE_TIP}),
            },
            "optional": {"knowledge": ("KNOWLEDGE_GRAPH", {"tooltip": "Tells the scorer what the names in captions stand for."})},
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
        from ..core.data.recaption import recaption_folder

        found = recaption_folder(
            resolve_folder(folder),
            new_folder(out),
            source,
            tuple(code.strip() for code in languages.split(",")),
            captions_each,
            least_sure,
            old_captions,
            min_clip,
            seed,
            _load("judge", judge),
            _load("text", scorer, knowledge),
        )
        return {"ui": {"text": [found.report]}, "result": (relative_name(found.folder), found.report)}


NODE_CLASS_MAPPINGS = {
    "RapidDrawOrchardDataset": OrchardDataset,
    "RapidDrawFilterDataset": FilterDataset,
    "RapidDrawRecaptionDataset": RecaptionDataset,
}
