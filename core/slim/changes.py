"""Changes of a slimmed U-Net against the network that its config describes, as a bundle records them under `extra["slim"]`.

:func:`changes_of` reads them off a network, :func:`apply_changes` makes them on a fresh one, so that the file's tensors fit it. Nothing but
the network itself keeps the record: surgery in any order ends in one description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import BundleError, InputError
from . import tricks
from .attention import SlimAttention
from .blocks import CROSS, FEED_FORWARD, RESIDUAL, SELF, TRANSFORMER, Block, blocks_of, choose
from .stand_ins import remove

KEY = "slim"
MAX_COPIES = 64
"""How many copies the transformers of a network may have in all."""
_KINDS = {
    "copies": (TRANSFORMER,), "shared": (SELF,), "relu": (SELF, CROSS), "swish": (FEED_FORWARD,), "trimmed": (FEED_FORWARD,),
    "separable": (RESIDUAL,),
}  # fmt: skip
"""The kinds of blocks that each change is for."""


@dataclass(frozen=True)
class Changes:
    """Blocks by what was done to them, under diffusers' names (:mod:`.blocks`).

    `copies` counts the copies at the end of each transformer, `trimmed` gives the hidden units of feed-forward networks; `shared`
    self-attentions have one projection for keys and values; `relu`, `swish` and `separable` are as in :mod:`.tricks`; `removed` blocks have
    stand-ins. They are made in this order."""

    copies: dict[str, int] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    relu: tuple[str, ...] = ()
    swish: tuple[str, ...] = ()
    trimmed: dict[str, int] = field(default_factory=dict)
    separable: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def stored(self) -> dict[str, Any]:
        """Return what a bundle's `extra` holds of the changes: {} where there are none."""
        made = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items() if value}
        return {KEY: made} if made else {}

    def summary(self) -> str:
        """Return one line such as `2 blocks removed, 3 copied`."""
        words = {
            "removed": (len(self.removed), "removed"), "copies": (sum(self.copies.values()), "copied"),
            "shared": (len(self.shared), "with one projection for keys and values"), "relu": (len(self.relu), "with relu for softmax"),
            "swish": (len(self.swish), "with swish for gelu"), "trimmed": (len(self.trimmed), "with a trimmed feed-forward"),
            "separable": (len(self.separable), "with separable convolutions"),
        }  # fmt: skip
        return ", ".join(f"{count} {said}" for count, said in words.values() if count) or "nothing changed"


def read_changes(extra: Mapping[str, Any], name: str) -> Changes | None:
    """Return the changes that a bundle records, None where it records none. Messages call the bundle `name`.

    Raises :class:`BundleError` for a record that this version cannot read."""
    stored = extra.get(KEY)
    if stored is None:
        return None
    known = Changes.__dataclass_fields__
    if not isinstance(stored, dict) or set(stored) - set(known):
        raise BundleError(f"{name}: its record of removed and copied blocks cannot be understood; update RapidDraw or slim it again")
    values: dict[str, Any] = {}
    for key, value in stored.items():
        counts = key in ("copies", "trimmed")
        items = list(value.items()) if isinstance(value, dict) else value
        right = isinstance(value, dict if counts else list) and len(items) <= 4096
        if not right or not all(_is_entry(item, counts) for item in items):
            raise BundleError(f"{name}: its record of {key} blocks is not a {'table of numbers' if counts else 'list of names'} by block")
        values[key] = dict(items) if counts else tuple(items)
    if sum(values.get("copies", {}).values()) > MAX_COPIES:
        raise BundleError(f"{name}: it records more than {MAX_COPIES} copied blocks, which this pack never writes")
    return Changes(**values)


def open_changes(network: Any, changes: Changes | None, name: str) -> None:
    """Make recorded changes on the fresh network of a bundle, in place. Raises :class:`BundleError` where they do not fit it."""
    if changes is None:
        return
    try:
        apply_changes(network, changes, values=False)
    except InputError as error:
        raise BundleError(f"{name}: its record of removed and copied blocks does not fit its network ({error})") from error


def apply_changes(network: Any, changes: Changes, values: bool = True) -> None:
    """Make `changes` on `network`, in place. Raises :class:`InputError`, before anything is changed, for a block that `network` lacks or
    that is of another kind. Without `values` weights are not read, for a network without memory or one whose weights are loaded later."""
    found = {block.name: block for block in blocks_of(network)}
    for change, kinds in _KINDS.items():
        for name in getattr(changes, change):
            block = found.get(_without_copy(name, changes)) or choose(list(found.values()), [name])[0]
            if block.kind not in kinds or block.is_removed:
                state = "removed" if block.is_removed else f"a {block.kind} block"
                raise InputError(f"{name} is {state}; {change} is for a {' or '.join(kinds)} block")
    for name, count in changes.copies.items():
        tricks.copy_transformer(found[name], count)
    for change, work in (
        ("shared", tricks.share_projections), ("relu", tricks.relu_for_softmax), ("swish", tricks.swish_for_gelu),
    ):  # fmt: skip
        for block in _now(network, getattr(changes, change)):
            work(network, block)
    for block in _now(network, tuple(changes.trimmed)):
        tricks.trim(network, block, changes.trimmed[block.name], values)
    for block in _now(network, changes.separable):
        tricks.separate(network, block, values)
    remove(network, _now(network, changes.removed))


def changes_of(network: Any) -> Changes:
    """Return what was changed in a U-Net by this pack; no changes for another network."""
    try:
        blocks = blocks_of(network)
    except InputError:
        return Changes()
    present = [block for block in blocks if not block.is_removed]
    slim = {block.name: block.module for block in present if isinstance(block.module, SlimAttention)}
    return Changes(
        copies={block.name: count for block in present if block.kind == TRANSFORMER and (count := tricks.copies_in(block))},
        shared=tuple(name for name, module in slim.items() if module.shares),
        relu=tuple(name for name, module in slim.items() if module.relu),
        swish=tuple(b.name for b in present if b.kind == FEED_FORWARD and isinstance(b.module.get_submodule("net.0"), tricks.GatedSwish)),
        trimmed={block.name: tricks.hidden_width(block) for block in present if block.kind == FEED_FORWARD and _is_trimmed(block)},
        separable=tuple(block.name for block in present if block.kind == RESIDUAL and _is_separable(block)),
        removed=tuple(block.name for block in blocks if block.is_removed),
    )


def _is_entry(item: Any, counts: bool) -> bool:
    if not counts:
        return isinstance(item, str)
    name, number = item
    return isinstance(name, str) and isinstance(number, int) and not isinstance(number, bool) and 0 < number < 2**20


def _without_copy(name: str, changes: Changes) -> str:
    """Return the name of the block that a copy was made of, for a name inside a copy."""
    head, between, tail = name.partition(".transformer_blocks.")
    if not between or not changes.copies.get(head):
        return name
    return f"{head}{between}0.{tail.partition('.')[2]}"


def _now(network: Any, names: tuple[str, ...]) -> list[Block]:
    return choose(blocks_of(network), list(names)) if names else []


def _is_trimmed(block: Block) -> bool:
    """Return whether a feed-forward network has fewer hidden units than a fresh one, which has four times its input's."""
    return tricks.hidden_width(block) != 4 * int(block.module.get_submodule("net.2").out_features)  # type: ignore[arg-type]


def _is_separable(block: Block) -> bool:
    return isinstance(block.module.get_submodule(tricks.convolutions(block)[0]), tricks.SeparableConv2d)
