"""Batches in order, prepared ahead by threads: the same batches however many threads there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from .processes import to_device
from .recipe import Recipe, derived_seed


@contextmanager
def batches(recipe: Recipe, device: torch.device, processes: int) -> Iterator[Callable[[int], Any]]:
    """Yield a function that takes an index and returns the batch on `device`. `recipe.prefetch` threads prepare the batches that one of
    `processes` processes needs next."""
    ahead, per_step = recipe.prefetch, recipe.accumulate
    stride = per_step * processes

    def make(index: int) -> Any:
        generator = torch.Generator().manual_seed(derived_seed(recipe.seed, "batch", index))
        return recipe.batch(index, generator)

    if not ahead:
        yield lambda index: to_device(make(index), device)
        return
    coming: dict[int, Future[Any]] = {}
    with ThreadPoolExecutor(ahead, thread_name_prefix="rapiddraw-batch") as pool:

        def take(index: int) -> Any:
            mine = coming.pop(index, None) or pool.submit(make, index)
            upcoming = index
            while len(coming) < ahead:
                upcoming = upcoming + 1 if (upcoming + 1) % per_step else upcoming + 1 - per_step + stride
                if upcoming not in coming:
                    coming[upcoming] = pool.submit(make, upcoming)
            return to_device(mine.result(), device)

        try:
            yield take
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
