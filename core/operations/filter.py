"""Filters of a folder by a user's own networks: CLIP, CLIP_VISION and a head that scores looks (PanGu-Draw, section 5)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..host import current
from ..scoring.find import resolve_network
from ..scoring.vision import COLOURS, FEWEST_COLOURS, Vision, load_head
from ..text.picture_reader import clip_vision_reader

NO_HEAD = "none"
log = logging.getLogger("rapiddraw")


def vision_of(
    clip: Any, clip_vision: Any, head_name: str, reads_texts: bool, find: Callable[[str], Path] = resolve_network
) -> tuple[Vision | None, list[str]]:
    """Return (what reads pictures, lines for a report). `reads_texts`: whether texts are to be compared with pictures, by `clip`.

    `find(head_name)` gives the file of an aesthetic head.
    None for no CLIP_VISION. Raises :class:`InputError` where a CLIP is asked, or a head is given, without a CLIP_VISION, and where
    widths differ; :class:`BundleError` for a file that is no head.
    """
    if clip_vision is None:
        wanted = [name for name, given in (("clip", clip is not None and reads_texts), ("aesthetic_head", head_name != NO_HEAD)) if given]
        if wanted:
            raise InputError(f"{' and '.join(wanted)} need a CLIP_VISION to read the pictures: link clip_vision from Load CLIP Vision")
        return None, []
    reader = clip_vision_reader(clip_vision)
    head = None if head_name == NO_HEAD else load_head(find(head_name))
    if head is not None and head.width != reader.width:
        raise InputError(
            f"{head_name} scores embeddings of {head.width} features and the CLIP_VISION gives {reader.width}; load the CLIP Vision model "
            "that the head was trained for, such as ViT-L/14 for 768"
        )
    if clip is None or not reads_texts:
        return Vision(reader, None, head), []

    def texts(lines: Sequence[str]) -> Tensor:
        return current().clip.beside_pictures(clip, lines, reader.width)

    if not bool(texts(["a picture"]).isfinite().all()):
        raise InputError(
            "the CLIP gives texts no vector beside pictures; a CLIP inside an SD 1.5 checkpoint has none: load clip_l.safetensors"
        )
    vision = Vision(reader, texts, head)
    return vision, _doubts(vision.colours_named())


def _doubts(named: int) -> list[str]:
    """Return a line for the report where too few plain colours were named rightly."""
    if named >= FEWEST_COLOURS:
        return []
    line = (
        f"the CLIP and the CLIP_VISION named {named} of {len(COLOURS)} plain colours rightly: they may not have been trained together, and "
        "CLIP scores then say nothing. A CLIP inside an SD 1.5 checkpoint does not fit; clip_l.safetensors by Load CLIP fits ViT-L/14"
    )
    log.warning(line)
    return [line]
