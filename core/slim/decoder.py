"""Structured pruning of a VAE's decoder by the L1 norm of its channels, aware of group norm (SnapFusion: an efficient image decoder).

A decoder is a stream of features that blocks add to. All layers that write to one stretch of the stream keep the same channels of it, and
each group of a group norm keeps equally many, so that the groups stay what they were. The encoder and the latent space do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import BundleError, InputError

KEY = "decoder_widths"
"""Where a VAE bundle records the widths of its decoder, from the picture inwards, where they are not those of its encoder."""


@dataclass
class _Stream:
    """A stretch of the stream of `width` channels, and the names of the layers that write to it."""

    width: int
    writers: list[str] = field(default_factory=list)


def pruned_widths(widths: Sequence[int], share: float, groups: int) -> list[int]:
    """Return a share (0..1] of each width, in whole channels a group. Widths that differ stay different, so that every residual block that
    changes the width still does. Raises :class:`InputError` for another share."""
    if not 0 < share <= 1:
        raise InputError(f"share={share:g}: the share of the decoder's channels that is left lies above 0 and is at most 1")
    made, last = {}, 0
    for width in sorted(set(widths)):
        last = made[width] = max(last + 1, round(width // groups * share))
    return [made[width] * groups for width in widths]


def read_widths(extra: Any, config: Any, name: str) -> list[int] | None:
    """Return the widths of the decoder that a VAE bundle records, None where it records none. Raises :class:`BundleError` for a record that
    is no list of widths of this network."""
    stored = extra.get(KEY)
    if stored is None:
        return None
    whole, groups = config.get("block_out_channels", [64]), config.get("norm_num_groups", 32)
    right = isinstance(stored, list) and len(stored) == len(whole)
    if not right or not all(isinstance(w, int) and 0 < w <= most and w % groups == 0 for w, most in zip(stored, whole, strict=True)):
        raise BundleError(f"{name}: its record of the decoder's widths ({stored!r:.80}) does not fit its config; prune the VAE again")
    return stored


def open_decoder(network: Any, widths: Sequence[int]) -> None:
    """Put a decoder of these widths, with fresh weights, into diffusers' `AutoencoderKL`."""
    from diffusers.models.autoencoders.vae import Decoder

    config, weight = network.config, network.decoder.conv_in.weight
    with torch.device(weight.device):
        network.decoder = Decoder(
            in_channels=config["latent_channels"],
            out_channels=config["out_channels"],
            up_block_types=tuple(config["up_block_types"]),
            block_out_channels=tuple(widths),
            layers_per_block=config["layers_per_block"],
            norm_num_groups=config["norm_num_groups"],
            act_fn=config["act_fn"],
            mid_block_add_attention=config.get("mid_block_add_attention", True),
        ).to(weight.dtype)


@torch.no_grad()
def prune_decoder(network: Any, share: float) -> list[int]:
    """Leave a `share` of the channels of a decoder, in place, and return its new widths. At 1 nothing is changed.

    `network` is diffusers' `AutoencoderKL`, on its device and with its weights. Raises :class:`InputError` for a share out of range."""
    groups = int(network.config["norm_num_groups"])
    before = widths_of(network)
    widths = pruned_widths(before, share, groups)
    if widths == before:
        return before
    old, training = {name: tensor.clone() for name, tensor in network.decoder.state_dict().items()}, network.training
    tensors = _sliced(network.decoder, old, widths, groups)
    open_decoder(network, widths)
    network.decoder.load_state_dict(tensors, strict=True)
    network.decoder.train(training).requires_grad_(False)
    return widths


def widths_of(network: Any) -> list[int]:
    """Return the widths of a decoder from the picture inwards."""
    return [int(stage.resnets[-1].conv2.out_channels) for stage in reversed(network.decoder.up_blocks)]


def _sliced(decoder: Any, old: dict[str, torch.Tensor], widths: Sequence[int], groups: int) -> dict[str, torch.Tensor]:
    """Return the weights of the kept channels of `decoder`, whose weights are `old`."""
    inward = list(widths)[::-1]
    stages = [(f"up_blocks.{i}", stage, inward[i]) for i, stage in enumerate(decoder.up_blocks)]
    walk, streams = _walk(decoder, stages, inward[0])
    kept = {id(stream): _best(_norms(old, stream.writers), stream.width, groups) for stream in streams}
    made: dict[str, torch.Tensor] = {}

    def put(name: str, rows: torch.Tensor | None, columns: torch.Tensor | None) -> None:
        for end in (".weight", ".bias"):
            if f"{name}{end}" in old:
                tensor = old[f"{name}{end}"]
                tensor = tensor if rows is None else tensor.index_select(0, rows)
                made[f"{name}{end}"] = tensor if columns is None or end == ".bias" or tensor.dim() < 2 else tensor.index_select(1, columns)

    for kind, name, source, target in walk:
        into = None if source is None else kept[id(source)]
        out = None if target is None else kept[id(target)]
        if kind == "residual":
            assert target is not None  # noqa: S101 - every residual block writes to a stream
            hidden = _best(_norms(old, [f"{name}.conv1"]) + old[f"{name}.conv2.weight"].abs().sum((0, 2, 3)), target.width, groups)
            put(f"{name}.norm1", into, None)
            put(f"{name}.conv1", hidden, into)
            put(f"{name}.norm2", hidden, None)
            put(f"{name}.conv2", out, hidden)
            put(f"{name}.conv_shortcut", out, into)
        elif kind == "attention":
            assert target is not None  # noqa: S101 - as above
            asked = _best(_norms(old, [f"{name}.to_q", f"{name}.to_k"]), target.width, groups)
            carried = _best(_norms(old, [f"{name}.to_v"]) + old[f"{name}.to_out.0.weight"].abs().sum(0), target.width, groups)
            put(f"{name}.group_norm", into, None)
            for part, rows in (("to_q", asked), ("to_k", asked), ("to_v", carried)):
                put(f"{name}.{part}", rows, into)
            put(f"{name}.to_out.0", out, carried)
            scale = (len(asked) / old[f"{name}.to_q.weight"].shape[0]) ** 0.5  # attention divides by the root of the width
            for end in (".weight", ".bias"):
                made[f"{name}.to_q{end}"] = made[f"{name}.to_q{end}"] * scale
        elif kind == "norm":
            put(name, into, None)
        else:
            put(name, out, into)
    return made


def _walk(decoder: Any, stages: Sequence[tuple[str, Any, int]], first: int) -> tuple[list[Any], list[_Stream]]:
    """Return (kind, layer, stream read, stream written) for every layer in order, and the streams."""
    streams = [_Stream(first, ["conv_in"])]
    walk: list[Any] = [("convolution", "conv_in", None, streams[0])]

    def residual(name: str, module: Any, width: int) -> None:
        source = streams[-1]
        if module.conv_shortcut is not None:
            streams.append(_Stream(width, [f"{name}.conv_shortcut"]))
        streams[-1].writers.append(f"{name}.conv2")
        walk.append(("residual", name, source, streams[-1]))

    middle = decoder.mid_block
    for i, module in enumerate(middle.resnets):
        if i and i <= len(middle.attentions) and middle.attentions[i - 1] is not None:
            name = f"mid_block.attentions.{i - 1}"
            streams[-1].writers.append(f"{name}.to_out.0")
            walk.append(("attention", name, streams[-1], streams[-1]))
        residual(f"mid_block.resnets.{i}", module, first)
    for path, stage, width in stages:
        for j, module in enumerate(stage.resnets):
            residual(f"{path}.resnets.{j}", module, width)
        if stage.upsamplers is not None:
            name = f"{path}.upsamplers.0.conv"
            source = streams[-1]
            streams.append(_Stream(width, [name]))
            walk.append(("convolution", name, source, streams[-1]))
    walk += [("norm", "conv_norm_out", streams[-1], None), ("convolution", "conv_out", streams[-1], None)]
    return walk, streams


def _norms(old: dict[str, torch.Tensor], writers: Sequence[str]) -> torch.Tensor:
    """Return the L1 norm of what each channel gets from the layers `writers`."""
    return torch.stack([old[f"{name}.weight"].float().abs().flatten(1).sum(1) for name in writers]).sum(0)


def _best(norms: torch.Tensor, width: int, groups: int) -> torch.Tensor:
    """Return the indices of `width` channels, ascending: equally many of each group, those of the largest norm."""
    kept = norms.reshape(groups, -1).topk(width // groups, dim=1).indices.sort(dim=1).values
    return (kept + torch.arange(groups, device=norms.device)[:, None] * (len(norms) // groups)).flatten()
