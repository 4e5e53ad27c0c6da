"""An object with the calls of some of its methods run by somebody else: how a network is sped up without a change to the one given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Runner = Callable[..., Any]
"""`run(call)` returns what `call()` returns, and decides how it is computed. `run(call, why)` leaves it as it is, and remembers why."""


class Around:
    """Everything of `base`; what its `methods` do is run by `run`."""

    def __init__(self, base: Any, methods: tuple[str, ...], run: Runner) -> None:
        # Once more replaces what was there: two of them would both measure.
        self._base: Any = vars(base)["_base"] if isinstance(base, Around) else base
        self._methods, self._run = methods, run

    def __getattr__(self, name: str) -> Any:
        if name in ("_base", "_methods", "_run"):  # not there yet: a copy that is being made
            raise AttributeError(name)
        value = getattr(self._base, name)
        if name not in self._methods:
            return value
        return lambda *args, **kwargs: self._run(lambda: value(*args, **kwargs))


class AroundUpscaler(Around):
    """An UPSCALE_MODEL whose every call is run by `run`."""

    def __init__(self, base: Any, run: Runner) -> None:
        super().__init__(base, (), run)

    def __call__(self, image: Any) -> Any:
        return self._run(lambda: self._base(image))

    def to(self, *args: Any, **kwargs: Any) -> AroundUpscaler:
        self._base.to(*args, **kwargs)
        return self

    def eval(self) -> AroundUpscaler:
        return self
