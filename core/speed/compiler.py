"""Compilation of one group of blocks by torch.compile: an own function for each group, dynamic sizes, and a count of the graphs.

Weights are arguments of the graph, not constants: where a LoRA changes their values, or replaces them by other tensors of the same shape,
the same compiled code runs.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import os
import shutil
import types
from collections.abc import Callable
from typing import Any

import torch

MAX_GRAPHS = 8
"""Limit of graphs for one group (a batch of one, other dtypes). Beyond it eager runs."""
_CXX = ("g++", "c++", "clang++", "icpx", "cl")


def missing_compiler(device: torch.device) -> str | None:
    """Return what torch.compile lacks on this machine for `device`, or None. On a CPU it needs a C++ compiler, on a GPU Triton."""
    if device.type == "cpu":
        named = os.environ.get("CXX")
        if not any(shutil.which(name) for name in ([named] if named else _CXX)):
            return f"no C++ compiler ({named or ', '.join(_CXX)}) is on this machine"
    elif importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return None


class Compiled:
    """`function(module, *args)` compiled, for all modules of one structure and any size. `count` is the number of compiled graphs.

    `one_input` says that the function has a single tensor argument; then a batch of one needs no graph of its own. Once `closed`, nothing
    more is compiled: a call that no graph fits runs eagerly.
    """

    def __init__(self, function: Callable[..., Any], one_input: bool = False, backend: Callable[..., Any] | None = None) -> None:
        from torch._dynamo import decorators

        self.count, self._backend, self.closed = 0, backend, False
        self._mark = getattr(decorators, "mark_unbacked", None) if one_input else None
        # torch.compile keeps caches and limits by code object. Each group gets its own, or forty blocks would share one limit.
        code = _call.__code__.replace(co_name=f"region_{id(self):x}")
        own = types.FunctionType(code, {"function": function, "__builtins__": builtins}, "region")
        self._run = torch.compile(own, dynamic=True, backend=self._compile)

    def __call__(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(self._free(value) for value in args)
        with _no_duck_shapes(), torch.compiler.set_stance("eager_on_recompile") if self.closed else contextlib.nullcontext():
            return self._run(module, *args, **{name: self._free(value) for name, value in kwargs.items()})

    def _free(self, value: Any) -> Any:
        """Return a tensor to which no graph is bound: not a view of another one, and with a free batch size."""
        if not isinstance(value, torch.Tensor):
            return value
        value = value.data if value._is_view() else value
        if self._mark is not None and value.ndim > 1:
            self._mark(value, 0)
        return value

    def _compile(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        if self._backend is not None:
            return self._backend(graph, inputs)
        from torch._inductor.compile_fx import compile_fx

        return compile_fx(graph, inputs)


def _no_duck_shapes() -> Any:
    """Treat height and width as different sizes even where they are equal in the first call."""
    from torch.fx.experimental import _config

    return _config.patch(use_duck_shape=False) if hasattr(_config, "use_duck_shape") else contextlib.nullcontext()  # type: ignore[attr-defined]


def _call(module: Any, *args: Any, **kwargs: Any) -> Any:
    return function(module, *args, **kwargs)  # type: ignore[name-defined]  # noqa: F821 - the globals of each copy hold it
