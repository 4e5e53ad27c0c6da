"""Format of bundles: one `.safetensors` file for each trained part, whose metadata says what the part is.

The metadata key `rapiddraw` holds JSON: format version, kind, network config, latent space, schedule and where the file came
from. Nothing is ever inferred from a file's name. The order of reading is fixed and matters for hostile files:
size and header are checked first, then the kind, then tensors are allocated, then every value is checked to be finite.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BundleError
from ..files import replacing
from .header import MAX_NUMBER, METADATA, read_header

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
KINDS = (
    "unet", "vae", "text", "image", "kg", "esrgan", "judge", "control", "adapter", "projection", "segmenter", "image_tokens", "prompt",
    "critic",
)  # fmt: skip
T = TypeVar("T")
_COUNTS = ("layer", "num_block", "depth", "num_stages")
"""Parts of the names of those numbers in a config that say how often something is built."""
KEY = "rapiddraw"


@dataclass(frozen=True)
class LatentSpace:
    """The latent space a VAE makes and a U-Net lives in. `model_latent = (vae_latent - shift) * scale`."""

    channels: int = 4
    factor: int = 8
    scale: float = 1.0
    shift: float = 0.0
    rgb_factors: tuple[tuple[float, float, float], ...] | None = None
    rgb_bias: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Schedule:
    """The forward process a U-Net was trained with. `prediction`: `eps`, `v`, `x0` or `flow`; `t_min`..`t_max` is the trained
    range. A flow has noise levels t / `timesteps`, and no betas."""

    prediction: str = "v"
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    timesteps: int = 1000
    t_min: int = 0
    t_max: int = 1000


@dataclass(frozen=True)
class BundleInfo:
    """What a bundle's metadata says. `path` is where it was read from; it is not stored."""

    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    latent: LatentSpace | None = None
    schedule: Schedule | None = None
    cfg_baked: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    path: Path | None = None


@dataclass(frozen=True)
class Bundle:
    """A bundle's metadata and its tensors, on the CPU, in the dtype they were stored in."""

    info: BundleInfo
    tensors: dict[str, torch.Tensor]


def save_bundle(path: str | os.PathLike[str], tensors: dict[str, torch.Tensor], info: BundleInfo) -> Path:
    """Write a bundle so that a reader sees either the old file or the whole new one.

    Raises :class:`BundleError` for an unknown kind or a tensor that is not finite: nothing broken is ever written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if info.kind not in KINDS:
        raise BundleError(f"cannot write a bundle of kind {info.kind!r}: the kinds are {', '.join(KINDS)}")
    _check_finite(path, tensors)
    meta = {k: v for k, v in asdict(info).items() if k != "path" and v not in (None, {})}
    whole = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
    with replacing(path) as temporary:
        save_file(whole, temporary, metadata={KEY: json.dumps(meta, ensure_ascii=True, sort_keys=True)})
    return path


def halved(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return `tensors` with every floating-point one in float16: half the file, and on reading they become float32 again."""
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def read_info(path: str | os.PathLike[str], kind: str | None = None) -> BundleInfo:
    """Read and check a bundle's header without touching its tensors.

    Raises :class:`BundleError` naming the file and the cause: missing, a pickle, truncated, an oversized or lying header, not a
    RapidDraw bundle, a newer format, or a kind other than `kind`.
    """
    path = Path(path)
    header = read_header(path)
    stored = header.get(METADATA)
    raw = stored.get(KEY) if isinstance(stored, dict) else None
    if raw is None:
        raise BundleError(
            f"{path.name} is a safetensors file but not a RapidDraw bundle (its metadata has no {KEY!r} entry). "
            "For a checkpoint of another kind use CheckpointLoaderSimple; our own files come from `python -m rapiddraw train`."
        )
    try:
        info = _parse_info(json.loads(raw), path)
        check_config(info.config, len(header) - (METADATA in header))
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise BundleError(f"{path.name}: its {KEY!r} metadata cannot be understood ({str(error)[:300]}); write the bundle again") from error
    if info.format_version > FORMAT_VERSION:
        raise BundleError(
            f"{path.name} has bundle format {info.format_version}, this version reads up to {FORMAT_VERSION}: update RapidDraw"
        )
    if kind is not None and info.kind != kind:
        raise BundleError(f"{path.name} is a bundle of kind {info.kind!r}, but one of kind {kind!r} is needed here")
    return info


def tensor_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the tensors in any `.safetensors` file, from its checked header alone."""
    return [name for name in read_header(Path(path)) if name != METADATA]


def load_foreign(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read the tensors of a `.safetensors` file that is not a bundle of ours, with the same checks of its header and values."""
    read_header(Path(path))
    return load_tensors(Path(path))


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a `.safetensors` file and check that its values are finite (:class:`BundleError`)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(str(path))
    except SafetensorError as error:  # what its own checks find beyond ours: overlaps, gaps, impossible shapes
        raise BundleError(f"{path.name} is not a sound safetensors file ({error}); copy it again") from error
    _check_finite(path, tensors)
    return tensors


def check_config(config: Mapping[str, Any], tensors: int) -> None:
    """Raise `ValueError` where a network's config holds a number beyond 2^63, NaN or infinity, or asks for more layers than a file of
    that many `tensors` can fill. 64 are always allowed: a file may hold only those tensors that differ from another file."""
    allowed, longest = max(tensors, 64), 1
    counts: dict[str, int] = {}
    waiting: list[tuple[str, Any]] = [*config.items()]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += ((f"{key}.{inner}", item) for inner, item in value.items())
        elif isinstance(value, list | tuple):
            longest = max(longest, len(value))
            waiting += ((key, item) for item in value)
        elif isinstance(value, int | float) and not -MAX_NUMBER < value < MAX_NUMBER:
            raise ValueError(f"{key} is a number beyond 2^63, or none")
        elif isinstance(value, int) and any(word in key for word in _COUNTS):
            counts[key] = max(counts.get(key, 1), value)
    if max(longest, *counts.values(), 1) > allowed or math.prod(counts.values(), start=longest) > 64 * allowed:
        largest = sorted({f"a list of {longest}": longest, **counts}.items(), key=lambda item: -item[1])[:3]
        named = ", ".join(key if key.startswith("a list") else f"{key} = {value}" for key, value in largest)
        raise ValueError(f"it asks for more layers than the {tensors} tensors of the file can fill ({named})")


def _parse_info(meta: Any, path: Path) -> BundleInfo:
    if not isinstance(meta, dict):
        raise TypeError(f"an object is expected, not a {type(meta).__name__}")
    latent, schedule = meta.pop("latent", None), meta.pop("schedule", None)
    if isinstance(latent, dict) and latent.get("rgb_factors"):
        latent["rgb_factors"] = tuple(tuple(row) for row in latent["rgb_factors"])
        latent["rgb_bias"] = tuple(latent["rgb_bias"]) if latent.get("rgb_bias") else None
    info = _typed(
        BundleInfo,
        {"kind": "", **meta},
        latent=_typed(LatentSpace, latent) if latent else None,
        schedule=_typed(Schedule, schedule) if schedule else None,
        path=path,
    )
    if info.kind not in KINDS:
        raise ValueError(f"unknown kind {info.kind!r}")
    return info


def _typed(cls: type[T], values: dict[str, Any], **more: Any) -> T:
    """`cls(**values)` where every value must have the type that the class's own default has (TypeError)."""
    made = cls(**values, **more)
    defaults = cls(kind="") if cls is BundleInfo else cls()  # type: ignore[call-arg]
    for key, value in values.items():
        default = getattr(defaults, key)
        wanted = (int, float) if isinstance(default, float) else type(default)
        if isinstance(value, int | float) and not -MAX_NUMBER < value < MAX_NUMBER:
            raise ValueError(f"{key} is a number beyond 2^63, or none")
        if default is not None and (not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool))):
            raise TypeError(f"{key} must be {type(default).__name__}, not {value!r:.60}")
    return made


def _check_finite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        values = tensor.float() if tensor.element_size() == 1 else tensor  # 8-bit floats have no isfinite of their own
        if not bool(values.isfinite().all()):
            bad = int((~values.isfinite()).sum())
            raise BundleError(f"{path.name}: tensor {name!r} holds {bad} values that are NaN or infinite; the file is unusable")
