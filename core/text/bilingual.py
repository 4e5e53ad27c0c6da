"""Two text encoders for one U-Net: their states side by side in each token, or one after the other (PanGu-Draw, section 5).

The paper concatenates the embeddings of a Chinese and an English encoder that read the same prompt. Its released model does so on the
feature axis: tokens of 768 and 1280 features make 2048. It takes the pooled state from the English encoder alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

MODES = ("feature", "token")
Conditioning = list[Any]
"""A CONDITIONING of either host: entries of tokens (B, T, width) and a dict of details, `pooled_output` (B, width) among them."""


def pad_tokens(tokens: Tensor, length: int, pad: Tensor | None = None) -> Tensor:
    """Return `tokens` (B, T, width) lengthened to `length` by `pad` (1, 1, width), the state of a padding token.

    Where `pad` is not given, the state of the last token is used. In a prompt that does not fill its row, that is a padding token.
    """
    missing = length - tokens.shape[1]
    filling = tokens[:, -1:] if pad is None else pad.to(tokens)
    return torch.cat([tokens, filling.expand(len(tokens), missing, -1)], dim=1) if missing > 0 else tokens


def joined_tokens(first: Tensor, second: Tensor, mode: str = "feature", pads: tuple[Tensor | None, Tensor | None] = (None, None)) -> Tensor:
    """Return two encoders' tokens (B, T, width) as one sequence.

    `feature`: the widths add up; the shorter sequence is padded (:func:`pad_tokens`). `token`: the lengths add up. Batches must be equal,
    or one of them 1. Raises :class:`InputError` where they do not fit.
    """
    if mode not in MODES:
        raise InputError(f"mode={mode!r}: expected {' or '.join(MODES)}")
    if first.ndim != 3 or second.ndim != 3 or (1 not in (len(first), len(second)) and len(first) != len(second)):
        raise InputError(f"texts of shapes {tuple(first.shape)} and {tuple(second.shape)}: expected (batch, tokens, features) of one batch")
    if mode == "token" and first.shape[2] != second.shape[2]:
        raise InputError(
            f"mode token puts texts one after the other, so their tokens must be equally wide; here they have {first.shape[2]} and "
            f"{second.shape[2]} features. Use mode feature with a model that attends to {first.shape[2] + second.shape[2]}"
        )
    batch, length = max(len(first), len(second)), max(first.shape[1], second.shape[1])
    one, other = (t.expand(batch, -1, -1) for t in (first, second.to(first)))
    if mode == "token":
        return torch.cat([one, other], dim=1)
    return torch.cat([pad_tokens(one, length, pads[0]), pad_tokens(other, length, pads[1])], dim=2)


def joined_mask(first: Tensor, second: Tensor, masks: tuple[Tensor | None, Tensor | None], mode: str) -> Tensor | None:
    """Return the attention mask (B, T) of :func:`joined_tokens`; None where neither text has one. A text without a mask counts whole.

    In mode `feature` a token counts where it counts in either text.
    """
    if masks[0] is None and masks[1] is None:
        return None
    own = [
        torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device) if mask is None else mask.reshape(-1, tokens.shape[1])
        for tokens, mask in zip((first, second), masks, strict=True)
    ]
    batch, length = max(len(first), len(second)), max(first.shape[1], second.shape[1])
    one, other = (mask.expand(batch, -1).to(own[0]) for mask in own)
    if mode == "token":
        return torch.cat([one, other], dim=1)
    return torch.maximum(*(torch.nn.functional.pad(mask, (0, length - mask.shape[1])) for mask in (one, other)))


def joined_conditioning(
    first: Conditioning,
    second: Conditioning,
    mode: str = "feature",
    pooled: str = "second",
    pads: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Conditioning:
    """Return the CONDITIONING of :func:`joined_tokens`, entry by entry; a single entry is joined with each entry of the other text.

    The pooled state is that of `pooled` ("first" or "second") alone. An attention mask covers the tokens of both. All other details
    (area, mask, range of steps) are those of the first.
    Raises :class:`InputError` where the two have different numbers of entries.
    """
    if pooled not in ("first", "second"):
        raise InputError(f"pooled={pooled!r}: expected first or second")
    if not first or not second or (1 not in (len(first), len(second)) and len(first) != len(second)):
        raise InputError(f"conditionings of {len(first)} and {len(second)} entries: expected as many in both, or one in either")
    count = max(len(first), len(second))
    entries = []
    for (tokens, details), (others, other_details) in zip(first * (count // len(first)), second * (count // len(second)), strict=True):
        chosen = {**details}
        chosen.pop("pooled_output", None)
        if (mask := joined_mask(tokens, others, (details.get("attention_mask"), other_details.get("attention_mask")), mode)) is not None:
            chosen["attention_mask"] = mask
        source = details if pooled == "first" else other_details
        if source.get("pooled_output") is not None:
            chosen["pooled_output"] = source["pooled_output"]
        entries.append([joined_tokens(tokens, others, mode, pads), chosen])
    return entries


def encode_bilingual(host: Any, clip_zh: Any, clip_en: Any, text: str, mode: str = "feature") -> Conditioning:
    """Return the CONDITIONING of `text` as two CLIPs of `host` read it: first the Chinese one, then the English one and its pooled state.

    The shorter text is padded with its own encoder's state of padding: the last token of the empty prompt.
    """
    chinese, english = host.clip.encode(clip_zh, text), host.clip.encode(clip_en, text)
    pads: tuple[Tensor | None, Tensor | None] = (None, None)
    if mode == "feature" and chinese[0][0].shape[1] != english[0][0].shape[1]:
        pads = (host.clip.encode(clip_zh, "")[0][0][:, -1:], host.clip.encode(clip_en, "")[0][0][:, -1:])
    return joined_conditioning(chinese, english, mode, "second", pads)


def check_width(host: Any, model: Any, conditioning: Conditioning, widths: str) -> None:
    """Raise :class:`InputError`, which names both widths, unless the MODEL attends to tokens as wide as the CONDITIONING's.

    `widths` says how the given width came about, such as "96 + 96", or nothing. A MODEL that does not say what it attends to passes.
    """
    wanted, given = host.model.attended_width(model), conditioning[0][0].shape[2]
    made = f"{widths} = {given}" if widths else given
    if wanted is not None and wanted != given:
        raise InputError(
            f"the tokens have {made} features, the model attends to tokens of {wanted}: use the encoders that it was trained with"
        )
