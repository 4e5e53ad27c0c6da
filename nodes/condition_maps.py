"""Nodes for condition maps, and for measures of how well pictures follow them (ELR-Diffusion, sections 3.1 and 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import bundle_choices, content_of
from .works_with import PICTURES

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.metrics.scores import Towers
    from .sockets import Inputs

NO_GRAPH = "none"
_LOW = {"default": 0.1, "min": 0.0, "max": 4.0, "step": 0.01}
_HIGH = {**_LOW, "default": 0.2}
_SEGMENTER = (
    "A bundle of kind segmenter. The shipped one knows Orchard pictures (this pack's drawings of imaginary fruits): sky, ground, "
    "fruit and topper."
)


def tower_choices(kind: str) -> tuple[list[str], dict[str, Any]]:
    """Return the bundles of a kind, pretrained ones first: later training moves a text encoder away from its image tower."""
    names = sorted(bundle_choices(kind), key=lambda name: not name.startswith("pretrained"))
    return names, {"default": names[0]}


def score_inputs() -> dict[str, Any]:
    """Return the widgets of a node that scores pictures against texts."""
    texts, images = tower_choices("text"), tower_choices("image")
    tip = "What the pictures should show: one text for all, or a line for each picture. Empty: no CLIP score."
    text_tip = (
        "The text encoder of the score. Use the pretrained one: training with the U-Net moved its text encoder away from the image tower."
    )
    graph_tip = "The knowledge graph for names in the texts. none: the encoder alone reads them."
    return {
        "texts": ("STRING", {"default": "", "multiline": True, "tooltip": tip}),
        "text_name": (texts[0], {**texts[1], "tooltip": text_tip}),
        "image_name": (
            images[0],
            {**images[1], "tooltip": "The image tower (the picture's encoder) that was trained together with that text encoder."},
        ),
        "kg_name": ([NO_GRAPH, *bundle_choices("kg")], {"default": NO_GRAPH, "tooltip": graph_tip}),
    }


def score_towers(texts: str, text_name: str, image_name: str, kg_name: str) -> Towers:
    """Return the files that those widgets choose; empty paths where there is no text to score."""
    from pathlib import Path

    from ..core.bundles.find import resolve_bundle
    from ..core.metrics.scores import Towers

    if not texts.strip():
        return Towers(Path(), Path())
    graph = None if kg_name == NO_GRAPH else resolve_bundle(kg_name, "kg")
    return Towers(resolve_bundle(text_name, "text"), resolve_bundle(image_name, "image"), graph)


class ConditionMapExtractor:
    """IMAGE in, its map out."""

    DISPLAY_NAME = "Condition Map"
    CATEGORY = "RapidDraw/control"
    WORKS_WITH = PICTURES
    SEARCH_ALIASES = (
        "canny", "edge detection", "preprocessor", "controlnet preprocessor", "lineart", "scribble", "segmentation map", "annotator",
    )  # fmt: skip
    ESSENTIALS_CATEGORY = "Image Tools"
    DESCRIPTION = (
        "Turns a picture into what ControlNets and control adapters follow. canny: thin edges. sketch: the main contours as strokes. "
        "segmentation: each segment in its colour. outline: the borders of the segments as strokes."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("map",)
    OUTPUT_TOOLTIPS = ("White on black. A segmentation has one colour for each class.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        types = ["canny", "sketch", "segmentation", "outline"]
        low = (
            "Canny's lower threshold, 0 to 4, where 1 is a step from black to white. Weaker edges are left out; lower finds more. "
            "0.1 is our default: ELR-Diffusion gives no thresholds."
        )
        high = (
            "Canny's upper threshold, 0 to 4. An edge needs at least one place above it; lower finds more. 0.2 is our default: "
            "ELR-Diffusion gives no thresholds."
        )
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The picture, or a batch of them."}),
                "type": (types, {"default": "canny", "tooltip": "Which map to make. segmentation and outline need the segmenter."}),
                "low": ("FLOAT", {**_LOW, "tooltip": low}),
                "high": ("FLOAT", {**_HIGH, "tooltip": high}),
                "segmenter_name": (bundle_choices("segmenter"), {"tooltip": _SEGMENTER}),
            }
        }

    @classmethod
    def IS_CHANGED(cls, segmenter_name: str | None = None, **_: Any) -> str:
        return content_of(segmenter=segmenter_name)

    def execute(self, image: Tensor, type: str, low: float, high: float, segmenter_name: str) -> tuple[Tensor]:
        from ..core.bundles.find import resolve_bundle
        from ..core.control.maps import condition_map

        segmenter = resolve_bundle(segmenter_name, "segmenter") if type in ("segmentation", "outline") else None
        return (condition_map(image, type, low, high, segmenter),)


class ControllabilityMetrics:
    """Scores of pictures against the maps and texts that they were drawn from."""

    DISPLAY_NAME = "Controllability Metrics"
    CATEGORY = "RapidDraw/metrics"
    WORKS_WITH = PICTURES
    SEARCH_ALIASES = ("measure controlnet", "edge error", "iou", "clip score", "compare pictures")
    DESCRIPTION = (
        "Measures how well pictures follow what they were drawn from: the error of their edges, the overlap of their segments, and the "
        "match with their texts (ELR-Diffusion, section 3.2). An input that is not linked is not measured."
    )
    RETURN_TYPES = ("STRING", "FLOAT", "FLOAT", "FLOAT")
    RETURN_NAMES = ("report", "edge_nmse", "iou", "clip_score")
    OUTPUT_TOOLTIPS = (
        "The numbers as text, with what they mean.",
        (
            "Squared error of the pictures' edges, divided by that of no edges at all: 0 is equal, 1 is as bad as no edges. -1: "
            "not measured."
        ),
        "Intersection over union of the segments, averaged over the classes, 0 to 1; 1 is equal. -1: not measured.",
        "Mean cosine between pictures and texts, -1 to 1; higher fits better. -1: not measured.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The pictures to measure."}),
                **score_inputs(),
                "low": (
                    "FLOAT",
                    {**_LOW, "tooltip": "Canny's lower threshold for the edges of the pictures, 0 to 4. Lower finds more edges."},
                ),
                "high": (
                    "FLOAT",
                    {**_HIGH, "tooltip": "Canny's upper threshold for the edges of the pictures, 0 to 4. Lower finds more edges."},
                ),
                "segmenter_name": (bundle_choices("segmenter"), {"tooltip": _SEGMENTER}),
            },
            "optional": {
                "edges": ("IMAGE", {"tooltip": "The wanted edges, white on black: one map for all, or one for each picture."}),
                "segmentation": ("IMAGE", {"tooltip": "The wanted segments, in the colours of Condition Map."}),
            },
        }

    @classmethod
    def IS_CHANGED(
        cls,
        text_name: str | None = None,
        image_name: str | None = None,
        kg_name: str | None = None,
        segmenter_name: str | None = None,
        **_: Any,
    ) -> str:
        return content_of(text=text_name, image=image_name, kg=kg_name, segmenter=segmenter_name)

    def execute(
        self,
        images: Tensor,
        texts: str,
        text_name: str,
        image_name: str,
        kg_name: str,
        low: float,
        high: float,
        segmenter_name: str,
        edges: Tensor | None = None,
        segmentation: Tensor | None = None,
    ) -> tuple[str, float, float, float]:
        from ..core.bundles.find import resolve_bundle
        from ..core.metrics.scores import controllability

        segmenter = None if segmentation is None else resolve_bundle(segmenter_name, "segmenter")
        towers = score_towers(texts, text_name, image_name, kg_name)
        found = controllability(images, texts, towers, segmenter, edges, segmentation, low, high)
        return found.report(), found["edge NMSE"], found["IoU"], found["CLIP score"]


class EvaluatePictures:
    """Scores of pictures against a reference and texts, by the judge network."""

    DISPLAY_NAME = "Evaluate Pictures"
    CATEGORY = "RapidDraw/metrics"
    WORKS_WITH = PICTURES
    SEARCH_ALIASES = ("fid", "inception score", "clip score", "quality score", "rate pictures", "compare models", "metrics")
    DESCRIPTION = (
        "Puts numbers on a batch of Orchard pictures (this pack's drawings of imaginary fruits), by the pack's own judge network: "
        "distance to reference pictures (FID-A), how surely and how differently they show things (inception score), and the match with "
        "their texts. Use dozens of pictures, better a hundred."
    )
    RETURN_TYPES = ("STRING", "FLOAT", "FLOAT", "FLOAT")
    RETURN_NAMES = ("report", "fid_a", "inception_score", "clip_score")
    OUTPUT_TOOLTIPS = (
        "The numbers as text, with what they mean.",
        (
            "Frechet distance between the two batches, in the judge's features; lower is nearer. It is not FID, and only equal "
            "numbers of pictures compare. -1: no reference."
        ),
        "Inception score over the judge's attributes, 1 and more; higher is surer and more varied. -1: one picture only.",
        "Mean cosine between pictures and texts, -1 to 1; higher fits better. -1: no text.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The pictures to measure."}),
                "judge_name": (
                    bundle_choices("judge"),
                    {"tooltip": "The classifier of attributes (shape, colour, pattern ...), a bundle of kind judge."},
                ),
                **score_inputs(),
            },
            "optional": {"reference": ("IMAGE", {"tooltip": "At least two pictures of what should have come out."})},
        }

    @classmethod
    def IS_CHANGED(
        cls,
        judge_name: str | None = None,
        text_name: str | None = None,
        image_name: str | None = None,
        kg_name: str | None = None,
        **_: Any,
    ) -> str:
        return content_of(judge=judge_name, text=text_name, image=image_name, kg=kg_name)

    def execute(
        self, images: Tensor, judge_name: str, texts: str, text_name: str, image_name: str, kg_name: str, reference: Tensor | None = None
    ) -> tuple[str, float, float, float]:
        from ..core.bundles.find import resolve_bundle
        from ..core.metrics.scores import evaluation

        towers = score_towers(texts, text_name, image_name, kg_name)
        found = evaluation(images, resolve_bundle(judge_name, "judge"), texts, towers, reference)
        return found.report(), found["FID-A"], found["inception score"], found["CLIP score"]


NODE_CLASS_MAPPINGS = {
    "RapidDrawConditionMapExtractor": ConditionMapExtractor,
    "RapidDrawControllabilityMetrics": ControllabilityMetrics,
    "RapidDrawEvaluatePictures": EvaluatePictures,
}
