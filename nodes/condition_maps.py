"""Condition maps of pictures, and how well a picture follows them (ELR-Diffusion, section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import bundle_choices, content_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.metrics.scores import Towers
    from .sockets import Inputs

NO_GRAPH = "none"
_LOW = {"default": 0.1, "min": 0.0, "max": 4.0, "step": 0.01}
_HIGH = {**_LOW, "default": 0.2}
_SEGMENTER = "A bundle of kind segmenter; the shipped one knows the Orchard's sky, ground, fruit and topper."


def tower_choices(kind: str) -> tuple[list[str], dict[str, Any]]:
    """The bundles of a kind, those first that nothing fine-tuned away from the space that texts and images share."""
    names = sorted(bundle_choices(kind), key=lambda name: not name.startswith("pretrained"))
    return names, {"default": names[0]}


def score_inputs() -> dict[str, Any]:
    """The widgets of a node that scores pictures against texts."""
    texts, images = tower_choices("text"), tower_choices("image")
    tip = "What the pictures should show: one text for all, or one a line for each. Empty: no CLIP score."
    text_tip = "The text encoder of the score. Take the pretrained one: the U-Net's own was moved away from the image tower."
    graph_tip = "The knowledge graph for names in the texts; none leaves them to the encoder."
    return {
        "texts": ("STRING", {"default": "", "multiline": True, "tooltip": tip}),
        "text_name": (texts[0], {**texts[1], "tooltip": text_tip}),
        "image_name": (images[0], {**images[1], "tooltip": "The image tower that was trained together with that text encoder."}),
        "kg_name": ([NO_GRAPH, *bundle_choices("kg")], {"default": NO_GRAPH, "tooltip": graph_tip}),
    }


def score_towers(texts: str, text_name: str, image_name: str, kg_name: str) -> Towers:
    """The files behind those widgets; looked for only where there is a text to score."""
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
    DESCRIPTION = (
        "Edges, a sketch or the segments of a picture, as control models take them. canny: thin edges. sketch: the main contours as "
        "strokes. segmentation: each segment in its colour. outline: the borders of the segments as strokes."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("map",)
    OUTPUT_TOOLTIPS = ("White on black; a segmentation in the colours of its classes.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        types = ["canny", "sketch", "segmentation", "outline"]
        low = "Canny's lower threshold: a weaker edge than this is none. 1 is a step from black to white. The paper's value: 0.1."
        high = "Canny's upper threshold: an edge needs one place above it. Lower finds more. The paper's value: 0.2."
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The picture, or a batch of them."}),
                "type": (types, {"default": "canny", "tooltip": "Which map. Segmentation and outline need the segmenter."}),
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
    """Pictures against the maps and texts they were drawn after."""

    DISPLAY_NAME = "Controllability Metrics"
    CATEGORY = "RapidDraw/metrics"
    DESCRIPTION = (
        "How well pictures follow their conditions: the error of their edges, the overlap of their segments, and how well they match their "
        "texts. What is not connected is not measured."
    )
    RETURN_TYPES = ("STRING", "FLOAT", "FLOAT", "FLOAT")
    RETURN_NAMES = ("report", "edge_nmse", "iou", "clip_score")
    OUTPUT_TOOLTIPS = (
        "The three numbers with what they mean, as text.",
        "Squared error of the pictures' edges, as a share of the given edges: 0 is the same, 1 as if there were none. -1: not measured.",
        "Intersection over union of the segments, the mean over classes: 1 is the same. -1: not measured.",
        "Mean cosine of pictures and texts, -1 to 1. -1: not measured.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The pictures to measure."}),
                **score_inputs(),
                "low": ("FLOAT", {**_LOW, "tooltip": "Canny's lower threshold for the edges of the pictures."}),
                "high": ("FLOAT", {**_HIGH, "tooltip": "Canny's upper threshold for the edges of the pictures."}),
                "segmenter_name": (bundle_choices("segmenter"), {"tooltip": _SEGMENTER}),
            },
            "optional": {
                "edges": ("IMAGE", {"tooltip": "The edges that were wanted, white on black: one map, or one a picture."}),
                "segmentation": ("IMAGE", {"tooltip": "The segments that were wanted, in the colours of Condition Map."}),
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
    """Pictures against a reference and texts, by the judge."""

    DISPLAY_NAME = "Evaluate Pictures"
    CATEGORY = "RapidDraw/metrics"
    DESCRIPTION = (
        "What a batch of Orchard pictures is worth by the project's own judge: their distance to reference pictures (FID-A), how surely "
        "and how differently they show things (inception score), and how well they match their texts. Take dozens of pictures, not two."
    )
    RETURN_TYPES = ("STRING", "FLOAT", "FLOAT", "FLOAT")
    RETURN_NAMES = ("report", "fid_a", "inception_score", "clip_score")
    OUTPUT_TOOLTIPS = (
        "The three numbers with what they mean, as text.",
        "Frechet distance in the judge's features; not FID, and comparable at equal counts only. -1: no reference.",
        "Of the judge's attributes, not Inception's classes: 1 and more. -1: one picture only.",
        "Mean cosine of pictures and texts, -1 to 1. -1: no text.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The pictures to measure."}),
                "judge_name": (bundle_choices("judge"), {"tooltip": "The attribute classifier, a bundle of kind judge."}),
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
