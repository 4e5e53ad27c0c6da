"""Evaluation of a network as planned: its blocks, or all of it, are replaced during one evaluation; eager runs where a plan fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from ..device import out_of_memory
from .compiler import MAX_GRAPHS
from .eager import in_bf16
from .plan import Plan
from .regions import Sample, fresh, halves, in_channels_last, replaced


@contextlib.contextmanager
def applied(
    network: nn.Module, plans: list[Plan], whole: Plan | None, channels_last: bool, make: Callable[[Plan, nn.Module], Callable[..., Any]]
) -> Iterator[None]:
    """Inside the `with` block, run the network in one piece where `whole` says so, otherwise by the plans of its blocks. `make(plan,
    module)` is the function that runs in a module's place."""
    with contextlib.ExitStack() as stack:
        in_one_piece = whole is not None and whole.changed
        for plan in [whole] if whole is not None and in_one_piece else plans:
            if plan.changed:
                stack.enter_context(replaced(plan.group, partial(make, plan)))
        if channels_last and not in_one_piece:
            for root in halves(network) or [network]:
                stack.callback(root.register_forward_pre_hook(_turn, with_kwargs=True).remove)
        yield


def runner(plan: Plan, module: nn.Module, failed: Callable[[str], None] | None) -> Callable[..., Any]:
    """Return a module's method as planned. Where it fails, eager runs from then on and `failed(why)` is called; without `failed` it
    raises."""

    def run(*args: Any, **kwargs: Any) -> Any:
        function, compiled = plan.group.function, plan.compiled
        if not plan.changed:
            return function(module, *args, **kwargs)
        try:
            out = (partial(in_bf16, compiled or function) if plan.bf16 else compiled or function)(module, *args, **kwargs)
        except Exception as error:
            if failed is None or out_of_memory(error):
                raise
            plan.compiled, plan.bf16 = None, False
            failed(f"a {plan.group.kind} failed as planned ({first_line(error)}); eager runs from here")
            return function(module, *args, **kwargs)
        if compiled is not None and not compiled.closed and compiled.count > MAX_GRAPHS:
            plan.compiled = None
            if failed is not None:
                failed(f"a {plan.group.kind} had to be compiled {compiled.count} times; eager runs from here")
        return out

    return run


def call_afresh(run: Callable[..., Any], sample: Sample) -> Any:
    """Return the result of `run` for the sample's arguments, which are not changed."""
    return run(*fresh(sample.args), **fresh(sample.kwargs))


def first_line(error: BaseException) -> str:
    """Return an error as one line of a log."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _turn(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(in_channels_last(value) for value in args), kwargs
