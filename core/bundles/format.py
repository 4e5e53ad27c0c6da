"""Bundles: one `.safetensors` file a trained part, whose metadata says what the part is.

The metadata key `rapiddraw` holds JSON: format version, kind, network config, latent space, schedule and where the file came
from. Nothing is ever inferred from a file's name. The order of reading is fixed and matters for hostile files:
size and header are checked first, then the kind, then tensors are allocated, then every value is checked to be finite.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BundleError
from ..files import replacing

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
KINDS = (
    "unet", "vae", "text", "image", "kg", "esrgan", "judge", "control", "adapter", "projection", "segmenter", "image_tokens", "prompt",
)  # fmt: skip
MAX_HEADER_BYTES = 32 * 2**20
T = TypeVar("T")
_KEY = "rapiddraw"
_BYTES_OF = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
    "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


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
    """The forward process a U-Net was trained with. `prediction`: `eps`, `v` or `x0`; `t_min`..`t_max` is the trained range."""

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
        save_file(whole, temporary, metadata={_KEY: json.dumps(meta, ensure_ascii=True, sort_keys=True)})
    return path


def read_info(path: str | os.PathLike[str], kind: str | None = None) -> BundleInfo:
    """Read and check a bundle's header without touching its tensors.

    Raises :class:`BundleError` naming the file and the cause: missing, a pickle, truncated, an oversized or lying header, not a
    RapidDraw bundle, a newer format, or a kind other than `kind`.
    """
    path = Path(path)
    header = _read_header(path)
    stored = header.get("__metadata__")
    raw = stored.get(_KEY) if isinstance(stored, dict) else None
    if raw is None:
        raise BundleError(
            f"{path.name} is a safetensors file but not a RapidDraw bundle (its metadata has no {_KEY!r} entry). "
            "For a checkpoint of another kind use CheckpointLoaderSimple; our own files come from `python -m rapiddraw train`."
        )
    try:
        info = _parse_info(json.loads(raw), path)
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise BundleError(f"{path.name}: its {_KEY!r} metadata cannot be understood ({error}); write the bundle again") from error
    if info.format_version > FORMAT_VERSION:
        raise BundleError(
            f"{path.name} has bundle format {info.format_version}, this version reads up to {FORMAT_VERSION}: update RapidDraw"
        )
    if kind is not None and info.kind != kind:
        raise BundleError(f"{path.name} is a bundle of kind {info.kind!r}, but one of kind {kind!r} is needed here")
    return info


def tensor_names(path: str | os.PathLike[str]) -> list[str]:
    """The names of the tensors in any `.safetensors` file, from its checked header alone."""
    return [name for name in _read_header(Path(path)) if name != "__metadata__"]


def load_foreign(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read the tensors of a `.safetensors` file that is not a bundle of ours, with the same checks of its header and values."""
    _read_header(Path(path))
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
        if default is not None and (not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool))):
            raise TypeError(f"{key} must be {type(default).__name__}, not {value!r:.60}")
    return made


def _read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, checked against the file's true size before anything is allocated."""
    if not path.is_file():
        raise BundleError(f"no such file: {path}. `python -m rapiddraw train --help` lists the recipes that make bundles")
    size = path.stat().st_size
    try:
        opened = path.open("rb")
    except OSError as error:
        raise BundleError(f"{path} cannot be opened ({error.strerror}); check its permissions") from error
    with opened as file:
        start = file.read(8)
        if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or path.suffix in (".pt", ".pth", ".ckpt", ".pkl"):
            raise BundleError(f"{path.name} is a pickle, which can run code when it is read; only .safetensors bundles are accepted")
        if len(start) < 8:
            raise BundleError(f"{path.name} is {size} bytes long: truncated or empty; copy it again")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER_BYTES:
            raise BundleError(f"{path.name} claims a header of {length} bytes, more than the {MAX_HEADER_BYTES} allowed: damaged")
        if length + 8 > size:
            raise BundleError(f"{path.name} claims a header of {length} bytes but is {size} bytes long: truncated; copy it again")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path.name} is not a safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise BundleError(f"{path.name} is not a safetensors file: its header is not an object")
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            first, last = entry["data_offsets"]
            count = 1
            for dimension in entry["shape"]:
                count *= int(dimension)
                if int(dimension) < 0:
                    raise ValueError(f"a negative dimension in {entry['shape']}")
            expected = count * _BYTES_OF[entry["dtype"]]
            first, last = int(first), int(last)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BundleError(f"{path.name}: the header's entry for tensor {name!r} is malformed ({error})") from error
        if last - first != expected or first < 0:
            raise BundleError(f"{path.name}: tensor {name!r} claims {expected} bytes of data but {last - first} are set aside")
        end = max(end, last)
    if 8 + length + end != size:
        raise BundleError(f"{path.name} should be {8 + length + end} bytes long and is {size}: truncated or damaged; copy it again")
    return header


def _check_finite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        values = tensor.float() if tensor.element_size() == 1 else tensor  # 8-bit floats have no isfinite of their own
        if not bool(values.isfinite().all()):
            bad = int((~values.isfinite()).sum())
            raise BundleError(f"{path.name}: tensor {name!r} holds {bad} values that are NaN or infinite; the file is unusable")
