"""Visible marks on AI-generated pictures (Rapid Diffusion, section 5.1: "images will be marked as 'AI-generated' before they are sent").

The mark is a line of text on a dark plate in a corner, in a size that follows the picture's. Where the text does not fit, the mark is "AI",
and where that does not fit either, a small black and white square. The mark in the file's metadata is in :mod:`.png`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL.ImageFont import FreeTypeFont, ImageFont
    from torch import Tensor

POSITIONS = ("bottom_right", "bottom_left", "top_right", "top_left")
DEFAULT_TEXT = "AI-generated"
SHORT_TEXT = "AI"
MAX_TEXT = 80
_PLATE_ALPHA = 0.6
# File names of fonts with Chinese, Japanese and Korean glyphs on Linux, macOS and Windows. All are optional.
_CJK_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc",
    "msyh.ttc", "simhei.ttf",
)  # fmt: skip


def mark_images(images: Tensor, text: str = DEFAULT_TEXT, position: str = "bottom_right", opacity: float = 0.8) -> Tensor:
    """Return a marked copy of an IMAGE (B, H, W, 1 or 3 or 4) in [0, 1]. Nothing outside the mark changes; alpha becomes opaque under it.

    `opacity` is 0 to 1; 0 returns the input itself. Where no font has the glyphs of `text` (Chinese on a machine without a Chinese font),
    the text is "AI-generated". Raises :class:`InputError` for an unknown position, an opacity out of range, or a tensor that is no IMAGE.
    """
    import torch

    if position not in POSITIONS:
        raise InputError(f"position {position!r} is not known: choose one of {', '.join(POSITIONS)}")
    if not (math.isfinite(opacity) and 0.0 <= opacity <= 1.0):
        raise InputError(f"opacity is {opacity}: give a number from 0 (invisible) to 1")
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape:
        raise InputError(f"the picture has the shape {tuple(images.shape)}; an IMAGE is (batch, height, width, 1 or 3 or 4 channels)")
    text = " ".join(text.split())[:MAX_TEXT] or DEFAULT_TEXT
    if opacity == 0.0:
        return images
    height, width = images.shape[1:3]
    colour, alpha = draw_mark(text, width, height)
    rows, columns = colour.shape
    top = 0 if position.startswith("top") else height - rows
    left = 0 if position.endswith("left") else width - columns
    cover = torch.from_numpy(alpha * opacity).to(images)[None, :, :, None]
    ink = torch.from_numpy(colour).to(images)[None, :, :, None]
    marked = images.clone()
    area = marked[:, top : top + rows, left : left + columns]  # a view: what is written here is written into the copy
    area[..., :3] = area[..., :3] * (1 - cover) + ink * cover
    if images.shape[-1] == 4:
        area[..., 3:] = torch.maximum(area[..., 3:], cover)
    return marked


@lru_cache(maxsize=16)
def draw_mark(text: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mark for a picture of that size: (brightness, coverage), both (h, w) float32 in [0, 1], h <= height and w <= width."""
    import numpy as np
    from PIL import Image, ImageDraw

    side = min(width, height)
    for line, least in ((text, 9), (DEFAULT_TEXT, 9), (SHORT_TEXT, 7)):
        for size in range(max(least, round(side / 18)), least - 1, -1):
            font = font_for(line, size)
            if font is None:
                break  # no glyphs for this text at any size
            left, top, right, bottom = (int(value) for value in font.getbbox(line))
            pad = max(1, size // 4)
            columns, rows = right - left + 2 * pad, bottom - top + 2 * pad
            if columns <= 0.6 * width + 12 and columns <= width and rows <= 0.5 * height:
                canvas = Image.new("L", (columns, rows))
                ImageDraw.Draw(canvas).text((pad - left, pad - top), line, fill=255, font=font)
                ink = np.asarray(canvas, dtype=np.float32) / 255.0
                ink = np.minimum(ink / max(float(ink.max()), 0.1), 1.0)  # the thin strokes of a small font are grey at best
                return ink, _PLATE_ALPHA + (1 - _PLATE_ALPHA) * ink
    square = max(1, min(4, side // 2))
    ink = np.indices((square, square)).sum(axis=0) % 2
    return ink.astype(np.float32), np.ones((square, square), dtype=np.float32)


def font_for(text: str, size: int) -> FreeTypeFont | ImageFont | None:
    """Return a font that has every glyph of `text`, or None."""
    from PIL import ImageFont

    if text.isascii():
        try:
            return ImageFont.load_default(size)
        except (TypeError, OSError):  # Pillow without FreeType has one small bitmap font
            return ImageFont.load_default()
    name = _covering_font(text)
    return ImageFont.truetype(name, size) if name else None


@lru_cache(maxsize=64)
def _covering_font(text: str) -> str | None:
    from PIL import ImageFont

    for name in _CJK_FONTS:
        try:
            font = ImageFont.truetype(name, 16)
        except (OSError, ImportError):
            continue
        missing = _glyph(font, "\U0010fffe")
        if all(char.isspace() or _glyph(font, char) != missing for char in text):
            return name
    return None


def _glyph(font: Any, char: str) -> bytes:
    mask = font.getmask(char)
    return bytes(mask) + str(mask.size).encode()
