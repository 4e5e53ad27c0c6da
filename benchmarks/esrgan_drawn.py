"""Pictures of 128 px enlarged to 512 px: how crisp they are, what the judge reads from them, and how near they are to renders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .shipped import sampling, shipped_judge, shipped_parts

CFG, STEPS, SMALL, LARGE, BORDER = 3.0, 20, 128, 512, 4
Way = Callable[[Any], Any]
"""Enlarges a picture (h, w, 3) uint8 four times."""


@dataclass(frozen=True)
class Measured:
    """Gradient energy (N,) and attribute accuracy (N,) of pictures."""

    energy: Any
    accuracy: Any


def enlarged_rows(ways: dict[str, Way], count: int) -> tuple[list[dict[str, Any]], dict[str, Measured]]:
    """Return rows of each way, and the measures of its pictures beside those of `renders` at 512 px and of the `small` drawn pictures."""
    import numpy as np
    import torch

    from ..core.metrics.orchard import evaluation_scenes, prompts_for, render_batch, sample_pictures, to_pictures
    from ..core.metrics.psnr import psnr
    from ..core.metrics.reconstruction import gradient_energy, to_bytes

    parts, judge = shipped_parts(), shipped_judge()
    pairs = evaluation_scenes("seen", count, seed=6)
    scenes = [scene for _, scene in pairs]
    small = render_batch(scenes, SMALL)
    again = parts.host.vae.decode(parts.vae, parts.host.vae.encode(parts.vae, (small / 2 + 0.5).movedim(1, -1)))
    decoded = [to_bytes(picture) for picture in to_pictures(again)]
    drawn = [to_bytes(picture) for picture in sample_pictures(parts, prompts_for(pairs), sampling(parts.host, CFG, STEPS))]
    originals = [to_bytes(render_batch([scene], LARGE)[0]) for scene in scenes]

    def measured(pictures: list[Any]) -> Measured:
        energy, read = [], []
        for picture, scene in zip(pictures, scenes, strict=True):
            batch = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            energy.append(gradient_energy(batch))
            read.append(_accuracy(judge, batch, [scene]))
        return Measured(np.concatenate(energy), np.concatenate(read))

    found = {"renders": measured(originals), "small": measured(drawn)}
    rows = []
    for name, way in ways.items():
        found[name] = measured([way(picture) for picture in drawn])
        trips = [way(picture) for picture in decoded]
        of_trips, whole = measured(trips), found["renders"].energy.mean()
        rows.append(
            {
                "input": "drawn, 128 px",
                "method": name,
                "pictures": count,
                "gradient energy": round(float(found[name].energy.mean() / whole), 3),
                "AA": round(float(found[name].accuracy.mean()), 3),
                "AA less the small pictures'": round(float(found[name].accuracy.mean() - found["small"].accuracy.mean()), 4),
            }
        )
        rows.append(
            {
                "input": "decoded renders, 128 px",
                "method": name,
                "pictures": count,
                "psnr_db": round(float(np.mean([psnr(one, high, BORDER) for one, high in zip(trips, originals, strict=True)])), 3),
                "gradient energy": round(float(of_trips.energy.mean() / whole), 3),
                "AA": round(float(of_trips.accuracy.mean()), 3),
            }
        )
    return rows, found


def _accuracy(judge: Any, batch: Any, scenes: list[Any]) -> Any:
    from ..core.metrics.orchard import AA_ATTRIBUTES, accuracy_by_picture
    from ..core.scoring.judge import judge_pictures

    return accuracy_by_picture(judge_pictures(judge, batch)[0], scenes, AA_ATTRIBUTES)
