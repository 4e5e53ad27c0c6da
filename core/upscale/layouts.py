"""Three layouts of ESRGAN weights by the names of their tensors, and what their shapes say about the network.

- `basicsr`: `conv_first, body.N.rdbM.convK, conv_body, conv_up1, conv_up2, conv_hr, conv_last` (BasicSR, Real-ESRGAN).
- `legacy`: `conv_first, RRDB_trunk.N.RDBM.convK, trunk_conv, upconv1, upconv2, HRconv, conv_last` (xinntao's first release, EasyNLP).
- `sequential`: `model.0, model.1.sub.N.RDBM.convK.0, model.1.sub.<blocks>, model.3, ...` (the oldest, and what spandrel's network has).

All three hold the same numbers. A network is described by its shapes alone, never by a file's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BundleError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

WRAPPERS = ("params_ema", "params-ema", "params", "netG", "net_g", "generator", "net", "model", "state_dict", "model_state_dict", "module")
"""Names under which checkpoints of GAN training hold the generator's weights, the preferred one first."""
_FIRST_LAYERS = ("conv_first.weight", "model.0.weight")
_MAX_DEPTH = 4
_LEGACY = (
    (re.compile(r"^RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)\."), r"body.\1.rdb\2.conv\3."),
    (re.compile(r"^trunk_conv\."), "conv_body."),
    (re.compile(r"^upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"^HRconv\."), "conv_hr."),
)
_SEQUENTIAL_BLOCK = re.compile(r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.")
_SEQUENTIAL_SUB = re.compile(r"^model\.1\.sub\.(\d+)\.")
_SEQUENTIAL_TOP = re.compile(r"^model\.(\d+)\.")
_BLOCK = re.compile(r"^body\.(\d+)\.rdb(\d)\.conv(\d)\.(weight|bias)$")


@dataclass(frozen=True)
class RRDBConfig:
    """Hyper-parameters of an RRDBNet. `in_channels` are the image's; with `shuffle` > 1 the first convolution has `shuffle**2` times as
    many. `scale` is 2**upsamples / shuffle: a x2 or x1 network of Real-ESRGAN folds the image by 2 or 4 and then upsamples by 4.
    """

    in_channels: int = 3
    out_channels: int = 3
    num_feat: int = 64
    num_block: int = 23
    num_grow: int = 32
    upsamples: int = 2
    shuffle: int = 1

    @property
    def scale(self) -> int:
        return 2**self.upsamples // self.shuffle


def unwrap(state: Any) -> State:
    """Return the mapping of names to tensors inside a checkpoint, which may wrap it (:data:`WRAPPERS`) or put a prefix before its names.

    Raises :class:`BundleError` for a checkpoint without such a mapping.
    """
    for _ in range(_MAX_DEPTH):
        inner = [state[key] for key in WRAPPERS if isinstance(state.get(key), dict) and state[key]] if isinstance(state, dict) else []
        if not inner and isinstance(state, dict) and len(state) == 1:
            inner = [value for value in state.values() if isinstance(value, dict)]
        if not inner:
            break
        state = inner[0]
    if not isinstance(state, dict) or not state or not all(hasattr(t, "shape") for t in state.values()):
        raise BundleError("this checkpoint holds no plain mapping of names to tensors; an ESRGAN model was expected")
    named = {str(key): tensor for key, tensor in state.items()}
    prefix = prefix_of(named) or ""
    return {key[len(prefix) :]: tensor for key, tensor in named.items() if key.startswith(prefix)}


def prefix_of(keys: Iterable[str]) -> str | None:
    """Return what stands before the names of an ESRGAN's tensors, such as `netG.`, or "" for nothing; None where there is no ESRGAN.

    Where several networks are in one checkpoint, the one under the preferred name (:data:`WRAPPERS`) counts.
    """
    keys = set(keys)
    found = {key[: -len(first)] for key in keys for first in _FIRST_LAYERS if key.endswith(first)}
    found = {prefix for prefix in found if layout_of(key[len(prefix) :] for key in keys if key.startswith(prefix))}

    def rank(prefix: str) -> tuple[int, str]:
        names = prefix.split(".")
        return next((at for at, name in enumerate(("", *WRAPPERS)) if name in names[: max(1, len(names) - 1)]), len(WRAPPERS)), prefix

    return min(found, key=rank, default=None)


def layout_of(keys: Any) -> str | None:
    """Return `basicsr`, `legacy` or `sequential`, from the names alone; None where they are not an ESRGAN's."""
    keys = set(keys)
    if {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight", "conv_last.weight"} <= keys:
        return "basicsr"
    if {"conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "trunk_conv.weight", "conv_last.weight"} <= keys:
        return "legacy"
    if {"model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"} <= keys:
        return "sequential"
    return None


def to_basicsr(state: State) -> State:
    """Return the same tensors under BasicSR's names. Raises :class:`BundleError` where the names are not a plain ESRGAN's."""
    layout = layout_of(state)
    if layout is None:
        some = ", ".join(sorted(state)[:3])
        raise BundleError(f"these are not the weights of an ESRGAN network (keys such as {some}); use UpscaleModelLoader for other kinds")
    if layout == "basicsr":
        return dict(state)
    if layout == "legacy":
        return {_rename(key, _LEGACY): tensor for key, tensor in state.items()}
    if any(".conv1x1." in key for key in state):
        raise BundleError("this is an ESRGAN+ network (it has 1x1 convolutions in its blocks); load it with UpscaleModelLoader")
    trunk = max(int(m[1]) for key in state if (m := _SEQUENTIAL_SUB.match(key)))
    last = max(int(m[1]) for key in state if (m := _SEQUENTIAL_TOP.match(key)))
    rules = (
        (_SEQUENTIAL_BLOCK, r"body.\1.rdb\2.conv\3."),
        (re.compile(rf"^model\.1\.sub\.{trunk}\."), "conv_body."),
        (re.compile(r"^model\.0\."), "conv_first."),
        (re.compile(rf"^model\.{last}\."), "conv_last."),
        (re.compile(rf"^model\.{last - 2}\."), "conv_hr."),
        *((re.compile(rf"^model\.{3 * i}\."), f"conv_up{i}.") for i in range(1, (last - 4) // 3 + 1)),
    )
    return {_rename(key, rules): tensor for key, tensor in state.items()}


def to_sequential(state: State) -> State:
    """Return the same tensors, of any layout, under the oldest names, which spandrel's network has. Raises :class:`BundleError`."""
    state = to_basicsr(state)
    config = derive(state)
    last = 3 * config.upsamples + 4
    names = {"conv_first": 0, "conv_hr": last - 2, "conv_last": last}
    names |= {f"conv_up{i}": 3 * i for i in range(1, config.upsamples + 1)}
    renamed = {}
    for key, tensor in state.items():
        if match := _BLOCK.match(key):
            block, dense, conv, what = match.groups()
            renamed[f"model.1.sub.{block}.RDB{dense}.conv{conv}.0.{what}"] = tensor
        else:
            stem, _, what = key.rpartition(".")
            if stem != "conv_body" and stem not in names:
                raise BundleError(f"tensor {key!r:.120} is no part of an ESRGAN network; the file is damaged or of another network")
            renamed[f"model.1.sub.{config.num_block}.{what}" if stem == "conv_body" else f"model.{names[stem]}.{what}"] = tensor
    return renamed


def derive(state: State) -> RRDBConfig:
    """Return every hyper-parameter of the network, from the shapes of `state` in BasicSR's layout.

    Folding (`shuffle`) follows from the channels: 4 or 16 times as many into the first convolution as out of the last. Raises
    :class:`BundleError` where a part is missing or two shapes disagree.
    """
    try:
        first, last = state["conv_first.weight"].shape, state["conv_last.weight"].shape
        num_grow = state["body.0.rdb1.conv1.weight"].shape[0]
        blocks = {int(m[1]) for key in state if (m := _BLOCK.match(key))}
        upsamples = len({key for key in state if re.match(r"^conv_up\d+\.weight$", key)})
        num_feat, raw_in, out_channels = int(first[0]), int(first[1]), int(last[0])
        shuffle = {4: 2, 16: 4}.get(raw_in // out_channels, 1) if raw_in % out_channels == 0 else 1
        config = RRDBConfig(raw_in // shuffle**2, out_channels, num_feat, len(blocks), int(num_grow), upsamples, shuffle)
        widths = [num_feat + k * config.num_grow for k in range(5)]
        consistent = blocks == set(range(len(blocks))) and 2**upsamples >= shuffle and last[1] == num_feat
        consistent &= all(
            state[f"body.{b}.rdb{r}.conv{k + 1}.weight"].shape[1] == w for b in blocks for r in (1, 2, 3) for k, w in enumerate(widths)
        )
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise BundleError(f"an ESRGAN network's weights are incomplete: {error} is missing or has an odd shape") from error
    if not consistent:
        raise BundleError("the shapes of these ESRGAN weights contradict each other; the file is damaged or of another network")
    return config


def _rename(key: str, rules: Any) -> str:
    for pattern, name in rules:
        renamed, count = pattern.subn(name, key)
        if count:
            return str(renamed)
    return key
