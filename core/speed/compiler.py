"""torch.compile for one group of blocks: a function of its own for each, dynamic sizes, and a count of what was compiled.

Weights go in as arguments of the graph, not as constants: a LoRA that changes their values, or puts other tensors of the same shape in
their place, meets the same compiled code.
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
"""Graphs compiled for one group that are put up with (a batch of one, other dtypes). Then it goes back to eager."""
_CXX = ("g++", "c++", "clang++", "icpx", "cl")


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile lacks on this machine for `device`, or None. On a CPU it writes C++, on a GPU it needs Triton."""
    if device.type == "cpu":
        named = os.environ.get("CXX")
        if not any(shutil.which(name) for name in ([named] if named else _CXX)):
            return f"no C++ compiler ({named or ', '.join(_CXX)}) is on this machine"
    elif importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return None


class Compiled:
    """`function(module, *args)` compiled, for all modules of one structure and any size. `count` is how many graphs were compiled.

    `one_input` says that the function has a single tensor argument; its batch may then be one without a graph of its own. Once `closed`
    it compiles nothing more: what no graph was made for is computed as it was written.
    """

    def __init__(self, function: Callable[..., Any], one_input: bool = False, backend: Callable[..., Any] | None = None) -> None:
        from torch._dynamo import decorators

        self.count, self._backend, self.closed = 0, backend, False
        self._mark = getattr(decorators, "mark_unbacked", None) if one_input else None
        # Caches and limits of torch.compile belong to a code object: each group gets its own, or forty blocks would share one limit.
        code = _call.__code__.replace(co_name=f"region_{id(self):x}")
        own = types.FunctionType(code, {"function": function, "__builtins__": builtins}, "region")
        self._run = torch.compile(own, dynamic=True, backend=self._compile)

    def __call__(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(self._free(value) for value in args)
        with _no_duck_shapes(), torch.compiler.set_stance("eager_on_recompile") if self.closed else contextlib.nullcontext():
            return self._run(module, *args, **{name: self._free(value) for name, value in kwargs.items()})

    def _free(self, value: Any) -> Any:
        """A tensor without what would tie a graph to it: the tensor it is a view of, and a batch that is not one."""
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
    """Height and width that happen to be equal once need not be equal again."""
    from torch.fx.experimental import _config

    return _config.patch(use_duck_shape=False) if hasattr(_config, "use_duck_shape") else contextlib.nullcontext()  # type: ignore[attr-defined]


def _call(module: Any, *args: Any, **kwargs: Any) -> Any:
    return function(module, *args, **kwargs)  # type: ignore[name-defined]  # noqa: F821 - the globals of each copy hold it
