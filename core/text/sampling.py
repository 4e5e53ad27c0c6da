"""Continuations of a text from any of transformers' causal language models, reproducible by their seed alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..progress import Progress, raise_if_cancelled

MAX_CANDIDATES = 16


@torch.no_grad()
def continuations(
    network: Any,
    question: Sequence[int],
    count: int,
    temperature: float,
    generator: torch.Generator,
    end: Collection[int],
    most: int,
    bar: Progress | None = None,
) -> list[tuple[list[int], float]]:
    """Return `count` continuations of the ids `question`: (ids without the end, mean log-probability of a token).

    Tokens are drawn one at a time. `temperature` divides the logits; 0 takes the likeliest token every time. A continuation ends at a token
    of `end`, or after `most` tokens. `generator` lives on the CPU, and tokens are drawn there whatever the device, so a seed means the same
    everywhere. `bar` advances by one step for each token. Raises :class:`InputError` for a count or a temperature out of range.
    """
    if not 1 <= count <= MAX_CANDIDATES:
        raise InputError(f"num_candidates is {count}: give a whole number from 1 to {MAX_CANDIDATES}")
    if not 0 <= temperature <= 10:
        raise InputError(f"temperature is {temperature}: give a number from 0 (always the likeliest word) to 10")
    device = next(network.parameters()).device
    ids = torch.tensor([list(question)] * count, dtype=torch.long, device=device)
    found: list[list[int]] = [[] for _ in range(count)]
    sums, open_ = [0.0] * count, [True] * count
    cache: Any = None
    for _ in range(most):
        raise_if_cancelled()
        result = network(input_ids=ids, past_key_values=cache, use_cache=True)
        cache, logits = result.past_key_values, result.logits[:, -1].float().cpu()
        if not bool(logits.isfinite().all()):
            raise InputError("the language model's output is not finite: its files are damaged, or it needs another precision")
        logs = logits.log_softmax(dim=1)
        drawn = logits.argmax(dim=1) if temperature == 0 else _draw(logits / temperature, generator)
        for row, token in enumerate(drawn.tolist()):
            if open_[row]:
                sums[row] += float(logs[row, token])
                open_[row] = token not in end
                found[row] += [token] if open_[row] else []
        if bar is not None:
            bar.update()
        if not any(open_):
            break
        ids = drawn[:, None].to(device)
    # One token more than was kept where the end was drawn: its probability counts as well.
    return [(tokens, total / max(1, len(tokens) + (not going))) for tokens, total, going in zip(found, sums, open_, strict=True)]


def _draw(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
