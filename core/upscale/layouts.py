"""The three key layouts in which ESRGAN weights are found, and what their tensor shapes say about the network.

- `basicsr`: `conv_first, body.N.rdbM.convK, conv_body, conv_up1, conv_up2, conv_hr, conv_last` (BasicSR, Real-ESRGAN).
- `legacy`: `conv_first, RRDB_trunk.N.RDBM.convK, trunk_conv, upconv1, upconv2, HRconv, conv_last` (xinntao's first release, EasyNLP).
- `sequential`: `model.0, model.1.sub.N.RDBM.convK.0, model.1.sub.<blocks>, model.3, ...` (the oldest, and what spandrel's network has).

All three name the same numbers. A network is described by its shapes alone, never by a file's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BundleError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict")
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
    """Hyper-parameters of an RRDBNet. `in_channels` are the image's; with `shuffle` > 1 the first convolution sees `shuffle**2` times as
    many. `scale = 2**upsamples / shuffle`: a x2 or x1 network of Real-ESRGAN folds the image by 2 or 4 first and then upsamples by 4.
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
    """The mapping of names to tensors inside a checkpoint that may wrap it (`params_ema` first, as BasicSR saves it), without `module.`."""
    for _ in range(2):
        for key in _WRAPPERS:
            if isinstance(state, dict) and isinstance(state.get(key), dict):
                state = state[key]
                break
    if not isinstance(state, dict) or not state or not all(hasattr(t, "shape") for t in state.values()):
        raise BundleError("this checkpoint holds no plain mapping of names to tensors; an ESRGAN model was expected")
    return {str(key).removeprefix("module."): tensor for key, tensor in state.items()}


def layout_of(keys: Any) -> str | None:
    """`basicsr`, `legacy` or `sequential`, from the key names alone; `None` where they are no ESRGAN's."""
    keys = set(keys)
    if {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight", "conv_last.weight"} <= keys:
        return "basicsr"
    if {"conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "trunk_conv.weight", "conv_last.weight"} <= keys:
        return "legacy"
    if {"model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"} <= keys:
        return "sequential"
    return None


def to_basicsr(state: State) -> State:
    """The same tensors under BasicSR's names. Raises :class:`BundleError` where the keys are no (plain) ESRGAN's."""
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
    """The same tensors under the oldest names (which spandrel's network has), from any layout."""
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
            stem, what = key.rsplit(".", 1)
            renamed[f"model.1.sub.{config.num_block}.{what}" if stem == "conv_body" else f"model.{names[stem]}.{what}"] = tensor
    return renamed


def derive(state: State) -> RRDBConfig:
    """Every hyper-parameter of the network, from the shapes of `state` in BasicSR's layout.

    Folding (`shuffle`) is read off the channels: 4 or 16 times as many into the first convolution as out of the last. Raises
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
