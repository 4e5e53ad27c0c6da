"""Wrappers that pass the calls of an object's methods to a runner, so that a network is accelerated without a change to the object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Runner = Callable[..., Any]
"""`run(call)` returns what `call()` returns, and decides how it is computed. `run(call, why)` changes nothing, and remembers why."""


class Around:
    """All attributes of `base`; the calls of its `methods` go through `run`."""

    def __init__(self, base: Any, methods: tuple[str, ...], run: Runner) -> None:
        # A second wrapper replaces the first: otherwise both would measure.
        self._base: Any = vars(base)["_base"] if isinstance(base, Around) else base
        self._methods, self._run = methods, run

    def __getattr__(self, name: str) -> Any:
        if name in ("_base", "_methods", "_run"):  # not set yet, while a copy is made
            raise AttributeError(name)
        value = getattr(self._base, name)
        if name not in self._methods:
            return value
        return lambda *args, **kwargs: self._run(lambda: value(*args, **kwargs))


class AroundUpscaler(Around):
    """An UPSCALE_MODEL whose calls go through `run`."""

    def __init__(self, base: Any, run: Runner) -> None:
        super().__init__(base, (), run)

    def __call__(self, image: Any) -> Any:
        return self._run(lambda: self._base(image))

    def to(self, *args: Any, **kwargs: Any) -> AroundUpscaler:
        self._base.to(*args, **kwargs)
        return self

    def eval(self) -> AroundUpscaler:
        return self
