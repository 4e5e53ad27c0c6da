"""What a run gave, for Python: pictures as arrays, the files, texts, and the seconds of each node."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Outputs:
    """Results of one run.

    `images`: the pictures, each (H, W, 3) uint8, as they were saved. `paths`: their files, in the same order. `files`: other files that
    nodes saved, such as videos. `texts`: what nodes reported. `seconds`: the time in each node that ran, by its id; a node whose earlier
    result was used is not in it. `total_seconds`: the whole run. `nodes`: what each output node showed, by its id, as `run --json` has it.
    """

    images: list[np.ndarray] = field(default_factory=list, repr=False)
    paths: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    total_seconds: float = 0.0
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)


def collect(shown: dict[str, dict[str, Any]], seconds: dict[str, float], total_seconds: float) -> Outputs:
    """Return the outputs of a run whose nodes showed `shown` (see :func:`~.engines.shown_by`); the pictures are read from their files."""
    import numpy as np
    from PIL import Image

    outputs = Outputs(seconds=dict(seconds), total_seconds=total_seconds, nodes=shown)
    for entry in shown.values():
        for key, values in entry.items():
            for value in values if isinstance(values, list) else ():
                if key == "text":
                    outputs.texts.append(str(value))
                elif isinstance(value, str) and Path(value).is_file():
                    path = Path(value)
                    is_picture = path.suffix.lower() in _PICTURES
                    (outputs.paths if is_picture else outputs.files).append(path)
    for path in outputs.paths:
        with Image.open(path) as picture:
            outputs.images.append(np.asarray(picture.convert("RGB")))
    return outputs
