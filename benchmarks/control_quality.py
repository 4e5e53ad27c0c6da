"""Quality of control adapters: edges, segments and text of pictures that are drawn after maps of scenes that no training showed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .shipped import sampling, shipped, shipped_judge, shipped_parts

SHIPPED, CEILING = "shipped", "ceiling"
NAMES = {"dense": "full copy", "lowrank": "low-rank copy", "kronecker": "frozen copy + Kronecker", SHIPPED: "shipped (low-rank copy)"}
STEPS, CFG = 12, 3.0


@dataclass(frozen=True)
class Quality:
    """Measures of each picture: edge NMSE (N,), edge F-score (N,), and pixels by class (2, N, classes): in both maps, in either."""

    nmse: Any
    f_score: Any
    segments: Any


def quality(files: dict[str, Path], count: int) -> tuple[list[dict[str, Any]], dict[str, Quality]]:
    """Return rows and measures by format; `files` are the adapters. A row without control and one of the renders after a round trip through
    the VAE (:data:`CEILING`) stand beside them."""
    import numpy as np
    import torch

    from ..core.bundles.find import resolve_bundle
    from ..core.control.apply import apply_adapter
    from ..core.control.hints import map_hint
    from ..core.control.maps import canny
    from ..core.control.segmenter import image_to_classes, load_segmenter, segment
    from ..core.metrics.control import edge_f_score, edge_nmse
    from ..core.metrics.orchard import evaluation_scenes, fid_a, prompts_for, render_batch, sample_pictures, to_pictures
    from ..core.metrics.scores import Towers, text_scores
    from ..core.orchard.render import render_maps
    from ..core.scoring.judge import judge_pictures

    parts, judge, segmenter = shipped_parts(), shipped_judge(), load_segmenter(shipped("segmenter", "segmenter"))
    host, plain = parts.host, sampling(parts.host, CFG, STEPS)
    towers = Towers(*(resolve_bundle(f"pretrained-orchard-{kind}.safetensors", kind) for kind in ("text", "image")), shipped("kg", "kg"))
    pairs = evaluation_scenes("seen", count, seed=3)
    scenes, prompts = [scene for _, scene in pairs], prompts_for(pairs)
    real = render_batch(scenes, 128)
    others = judge_pictures(judge, render_batch([scene for _, scene in evaluation_scenes("seen", count, seed=4)], 128))[1]
    drawn = [render_maps(scene, 128) for scene in scenes]
    maps = {kind: torch.stack([map_hint(kind, torch.from_numpy(one[kind].copy())) for one in drawn]) for kind in ("segmentation", "sketch")}
    edges, classes = canny(real / 2 + 0.5), image_to_classes(maps["segmentation"].movedim(1, -1))
    maps["edges"] = edges[:, None].expand(-1, 3, -1, -1)
    images = {kind: hint.movedim(1, -1) for kind, hint in maps.items()}

    def pictures(net: Any, *kinds: str) -> Any:
        def sample(model: Any, positive: Any, negative: Any, latent: Any, seed: int) -> Any:
            if net is not None:
                positive, negative = apply_adapter(positive, negative, net, {kind: images[kind] for kind in kinds}, 1.0, 0.0, 1.0)
            return plain(model, positive, negative, latent, seed)

        return sample_pictures(parts, prompts, sample, batch=count)

    def measured(by_edges: Any, by_segments: Any, by_all: Any) -> tuple[Quality, dict[str, Any]]:
        found = canny(by_edges / 2 + 0.5)
        one = Quality(
            edge_nmse(found, edges).numpy(), edge_f_score(found, edges).numpy(),
            overlaps(segment(segmenter, by_segments), classes, len(segmenter.classes)),
        )  # fmt: skip
        cells = {
            "edge F-score": float(np.nanmean(one.f_score)), "edge NMSE": float(np.nanmean(one.nmse)), "IoU": iou(one.segments.sum(1)),
            "CLIP score": float(text_scores(by_all / 2 + 0.5, prompts, towers).mean()),
        }  # fmt: skip
        return one, {name: round(value, 4) for name, value in cells.items()} | {"FID-A": fid_a(judge_pictures(judge, by_all)[1], others)}

    rows: list[dict[str, Any]] = []
    found = {}
    for kind, path in {"none": None, **files}.items():
        net = None if path is None else host.control.load(path, "edges")
        by_edges = pictures(net, "edges")
        by_segments, by_all = (by_edges if net is None else pictures(net, *kinds) for kinds in (("segmentation",), tuple(images)))
        found[kind], cells = measured(by_edges, by_segments, by_all)
        rows.append({"table": "quality", "format": NAMES.get(kind, "no control"), "pictures": count, **cells})
    again = to_pictures(host.vae.decode(parts.vae, host.vae.encode(parts.vae, (real / 2 + 0.5).movedim(1, -1))))
    found[CEILING], cells = measured(again, again, again)
    rows.append({"table": "quality", "format": "renders through the VAE", "pictures": count, **cells})
    return rows, found


def overlaps(found: Any, truth: Any, classes: int) -> Any:
    """Return pixels (2, N, classes) of class maps (N, H, W): those that have the class in both maps, and in at least one."""
    import numpy as np

    pairs = [(found == index, truth == index) for index in range(classes)]
    both, either = ([(one & two if shared else one | two).sum((1, 2)) for one, two in pairs] for shared in (True, False))
    return np.array([[pixels.numpy() for pixels in both], [pixels.numpy() for pixels in either]], dtype=np.float64).swapaxes(1, 2)


def iou(pixels: Any) -> float:
    """Return intersection over union from pixels (2, classes), the mean over the classes that occur."""
    both, either = pixels
    return float((both[either > 0] / either[either > 0]).mean())


def mean_iou(segments: Any) -> Any:
    """Return the IoU of pixels (2, N, classes) as an estimate over the pictures."""
    from ..core.metrics.bootstrap import bootstrap

    return bootstrap(lambda drawn: iou(segments[:, drawn].sum(1)), segments.shape[1])


def iou_ratio(segments: Any, others: Any) -> Any:
    """Return the IoU over that of others, as an estimate over the pictures; both are pixels (2, N, classes)."""
    from ..core.metrics.bootstrap import bootstrap

    return bootstrap(lambda drawn: iou(segments[:, drawn].sum(1)) / iou(others[:, drawn].sum(1)), segments.shape[1])
