"""Resolution buckets: the sizes of multi-resolution training, and the index that tells the U-Net which size it draws.

PanGu-Draw (sections 5 and 8, Table 7) has eleven sizes for the structure model and eleven for the texture model, in the same order: one
index stands for one aspect ratio in both. The U-Net is conditioned on the sinusoidal embedding of the index. Sizes are (height, width)
here, as the table prints them; nodes and ComfyUI say width first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]
STRUCTURE: tuple[Size, ...] = (
    (512, 2048), (512, 1920), (704, 1408), (768, 1344), (864, 1152), (1024, 1024),
    (1152, 864), (1344, 768), (1408, 704), (1920, 512), (2048, 512),
)  # fmt: skip
TEXTURE: tuple[Size, ...] = (
    (256, 1024), (256, 960), (384, 768), (416, 736), (480, 640), (512, 512),
    (640, 480), (736, 416), (768, 384), (960, 256), (1024, 256),
)  # fmt: skip
TABLES = {"structure": STRUCTURE, "texture": TEXTURE}
SQUARE = 5
INDEX_FEATURES = 256
"""Number of features of an index's embedding. The released model concatenates 256 of them with the pooled text state."""
INDEX_KEY = "rapiddraw_resolution_index"
"""Key under which a CONDITIONING keeps the index."""
MAX_SIDE = 16384
_MULTIPLES = (8, 16, 32, 64, 128)


def check_index(index: int) -> int:
    """Return `index`. Raises :class:`InputError` unless it is a row of the tables."""
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(STRUCTURE):
        raise InputError(f"resolution index {index!r}: expected 0 (four times as wide as high) to {len(STRUCTURE) - 1} (four times as high)")
    return index


def bucket_size(index: int, stage: str = "structure", scale: float = 1.0, multiple: int = 32) -> Size:
    """Return (height, width) in pixels of row `index` of a stage's table, times `scale`, in multiples of `multiple`.

    `multiple` should be the VAE's factor times the factor of the U-Net's levels: 32 for three levels, 64 for four. At scale 1 both tables
    are multiples of 32 already. At other scales each side is rounded up or down, whichever keeps the aspect ratio best; of two equally good
    sizes the smaller is taken. Raises :class:`InputError` for values out of range.
    """
    if stage not in TABLES:
        raise InputError(f"stage={stage!r}: expected {' or '.join(TABLES)}")
    if multiple not in _MULTIPLES:
        raise InputError(f"multiple={multiple!r}: expected one of {', '.join(map(str, _MULTIPLES))}")
    if not (math.isfinite(scale) and 0 < scale <= 8):
        raise InputError(f"scale={scale!r}: expected more than 0 (0.125 is an eighth of the paper's sizes) and at most 8")
    wanted = TABLES[stage][check_index(index)]
    ratio = max(wanted) / min(wanted)
    near = [_around(side * scale / multiple) for side in wanted]
    sizes = [(h * multiple, w * multiple) for h in near[0] for w in near[1]]
    height, width = min(sizes, key=lambda size: (round(abs(_elongation(size, wanted) - ratio), 6), size[0] * size[1]))
    if max(height, width) > MAX_SIDE:
        raise InputError(f"{width} x {height} pixels is more than {MAX_SIDE} a side: lower the scale")
    return height, width


def bucket_sizes(stage: str = "structure", scale: float = 1.0, multiple: int = 32) -> list[Size]:
    """Return all sizes of a stage as :func:`bucket_size` gives them, in the order of their indices. After rounding two may be the same."""
    return [bucket_size(index, stage, scale, multiple) for index in range(len(TABLES[stage] if stage in TABLES else STRUCTURE))]


def nearest_bucket(height: int, width: int, sizes: Sequence[Size] = STRUCTURE) -> int:
    """Return the index of the size whose aspect ratio is nearest to a picture's, by the logarithm; of equally near ones the first."""
    if height < 1 or width < 1:
        raise InputError(f"a picture of {width} x {height} pixels has no aspect ratio")
    ratio = math.log(width / height)
    return min(range(len(sizes)), key=lambda i: abs(math.log(sizes[i][1] / sizes[i][0]) - ratio))


def index_embedding(index: int | Tensor) -> Tensor:
    """Return the sinusoidal embedding (B, 256) of indices (B,) or of one index: cosines, then sines, of frequencies from 1 to 1/10000."""
    import torch

    half, indices = INDEX_FEATURES // 2, torch.as_tensor(index, dtype=torch.float32)
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=indices.device) / half)
    angles = indices.reshape(-1, 1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def aspect_choices() -> list[str]:
    """Return the rows of the table for a COMBO, such as `4: 4:3 (1152x864)`, width first."""
    return [f"{i}: {_ratio(h, w)} ({w}x{h})" for i, (h, w) in enumerate(STRUCTURE)]


def index_of_choice(choice: str) -> int:
    """Return the index of one of :func:`aspect_choices`. Raises :class:`InputError` for another text."""
    if choice not in aspect_choices():
        raise InputError(f"aspect {choice!r} is no row of the table: the rows are {', '.join(aspect_choices())}")
    return int(choice.partition(":")[0])


def _around(side: float) -> tuple[int, ...]:
    low = max(1, math.floor(side + 1e-6))
    return (low,) if abs(side - low) < 1e-6 else (low, low + 1)


def _elongation(size: Size, like: Size) -> float:
    """Return the ratio of the long side to the short one; `like` says which side is the long one."""
    return size[0] / size[1] if like[0] > like[1] else size[1] / size[0]


def _ratio(height: int, width: int) -> str:
    common = math.gcd(height, width)
    return f"{width // common}:{height // common}"


def index_condition(pooled: Tensor | None, index: int | None, width: int, shape: Sequence[int]) -> Tensor:
    """Return what a U-Net that knows the index takes beside the tokens: (B, `width` + 256).

    It is the pooled text state (zeros where there is none), then the embedding of `index`. Without an index, the index of the latents' own
    aspect ratio is taken; `shape` is (..., h, w). Raises :class:`InputError` for a pooled state of another width than the U-Net was trained
    with.
    """
    import torch

    if pooled is not None and pooled.shape[-1] != width:
        raise InputError(
            f"the model takes a pooled text state of {width} features, the conditioning carries one of {pooled.shape[-1]}; encode the text "
            "with the CLIP that was loaded with this model"
        )
    state = torch.zeros(1, width) if pooled is None else pooled.to("cpu", torch.float32)
    chosen = nearest_bucket(int(shape[-2]), int(shape[-1])) if index is None else check_index(index)
    return torch.cat([state, index_embedding(chosen).expand(len(state), -1)], dim=1)


def empty_latent(height: int, width: int, batch: int = 1) -> dict[str, Any]:
    """Return an empty LATENT for a picture of that many pixels, as the stock node Empty Latent Image makes it.

    The host fits the model's own channels and factor later. Raises :class:`InputError` for a size or a batch out of range, before memory is
    allocated.
    """
    import torch

    if not 1 <= batch <= 4096 or not all(8 <= side <= MAX_SIDE for side in (height, width)):
        raise InputError(f"{batch} pictures of {width} x {height} pixels: expected 1 to 4096 of 8 to {MAX_SIDE} a side")
    return {"samples": torch.zeros(batch, 4, height // 8, width // 8), "downscale_ratio_spacial": 8}


def with_index(conditioning: Sequence[Any], index: int) -> list[Any]:
    """Return a CONDITIONING that carries `index` beside each text."""
    check_index(index)
    return [[tokens, {**details, INDEX_KEY: index}] for tokens, details in conditioning]
