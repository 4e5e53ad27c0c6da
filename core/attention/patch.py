"""Attention patch of one model: each attention call runs on the kernel chosen for it and is counted.

A speed-up must never make a picture wrong or stop a graph. A call that no kernel can compute runs as without the patch. A kernel that
raises is switched off with one warning, and the call is repeated on the default. Where an evaluation of the model is not finite, it is
repeated while each kernel's output is checked, and the kernel at fault is switched off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from einops import rearrange
from torch import Tensor

from ..errors import InputError
from .backends import BACKENDS, Backend
from .call import Arguments, Call
from .memory import Times
from .select import DEFAULT, Selector, fastest
from .usage import Row, summary, table

AUTO = "auto"
APPLY_TO = ("both", "self", "cross")
log = logging.getLogger("rapiddraw")
_selector: Selector | None = None


def shared_selector() -> Selector:
    """Return the selector of this process, with its memory on disk."""
    global _selector
    _selector = _selector or Selector()
    return _selector


class AttentionPatch:
    """Chooses a kernel for every attention call of a MODEL and of all its clones, and counts the calls.

    `backend` is "auto" or a name of :data:`~.backends.BACKENDS`. `apply_to` limits the patch to self-attention (as many keys as queries) or
    cross-attention (any other call). Kernels that are not exact are used only with `allow_inexact`. Raises :class:`InputError` for other
    values. Where a kernel is not installed, a warning says so and the default runs.
    """

    def __init__(
        self,
        backend: str = AUTO,
        apply_to: str = "both",
        allow_inexact: bool = False,
        *,
        backends: Mapping[str, Backend] | None = None,
        selector: Selector | None = None,
    ) -> None:
        table = BACKENDS if backends is None else backends
        if backend not in (AUTO, DEFAULT, *table):
            raise InputError(f"there is no attention backend {backend!r}: give {AUTO}, {DEFAULT} or one of {', '.join(table)}")
        if apply_to not in APPLY_TO:
            raise InputError(f"apply_to is {apply_to!r}: give one of {', '.join(APPLY_TO)}")
        wanted = [one for one in table.values() if backend in (AUTO, one.name) and (one.exact or allow_inexact)]
        if backend in table and not wanted:
            raise InputError(f"{backend} is not exact: it changes the picture a little. Switch on allow_inexact to use it, or choose auto")
        self.backends = {one.name: one for one in wanted if one.available()}
        self.backend, self.apply_to = backend, apply_to
        self.selector = selector or shared_selector()
        self.off: dict[str, str] = {}
        if backend in table and not self.backends:
            self._switch_off(backend, f"it is not installed (package {table[backend].package})")
        self.rows: dict[Any, Row] = {}
        self._choices: dict[Any, Row] = {}
        self.compiled = self._guarded = self._said = self._blamed = False
        self._watching = True

    def __deepcopy__(self, memo: Any) -> AttentionPatch:
        return self  # the copies of a model's options share one count

    def attend(self, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return what `func(*args, **kwargs)` would: one attention call, as ComfyUI's `optimized_attention_override` wants it."""
        default = partial(func, *args, **kwargs)
        try:
            given = Arguments(*args, **kwargs)
        except TypeError:  # an argument of a newer ComfyUI: it may change what is computed
            return default()
        kind = "self" if given.q.shape[-2] == given.k.shape[-2] else "cross"
        if self.apply_to not in ("both", kind) or not given.is_plain():
            return default()
        if torch.compiler.is_compiling():
            return self._in_graph(given)

        def run(backend: Backend) -> Tensor:
            return given.join(backend.run(*given.split(), given.additive()))

        own = getattr(func, "__name__", "default")
        return self._serve(kind, given.call(), default, own, run, given.low_precision_attention, self._guarded)

    def attend_pixels(self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return one attention call of a VAE, which has one head over all pixels: q, k, v and the result are (B, C, H, W)."""
        if q.ndim != 4 or not q.shape == k.shape == v.shape or (torch.is_grad_enabled() and q.requires_grad):
            return func(q, k, v)
        call = Call(q.device, q.dtype, q.shape[0], 1, q.shape[2] * q.shape[3], k.shape[2] * k.shape[3], q.shape[1], False)

        def run(backend: Backend) -> Tensor:
            flat = [rearrange(t, "b c h w -> b 1 (h w) c").contiguous() for t in (q, k, v)]
            return rearrange(backend.run(flat[0], flat[1], flat[2], None), "b 1 (h w) c -> b c h w", h=q.shape[2])

        name = getattr(func, "__name__", "default")
        return self._serve("VAE", call, partial(func, q, k, v), name, run, True, True)

    def evaluate(self, run: Callable[[], Any]) -> Any:
        """Return one evaluation of the model by `run()`, which may be called twice. The log says once which kernel ran where."""
        out = run()
        if self.rows and not self._said:
            self._said = True
            log.info("attention: %s", summary(self.rows.values()))
        if not self._watching or not self._in_use() or _finite(out):
            return out
        self._guarded, self._blamed = True, False
        try:
            out = run()
        finally:
            self._guarded = False
        if not self._blamed and not _finite(out):
            self._watching = False
            log.warning("attention: the model's own output is not finite, with the default attention too")
        return out

    def report(self) -> str:
        """Return a table: which kernel ran where, how often, and how much faster than the default it was when both were measured."""
        notes = [f"{name} is off for this model: {why}" for name, why in self.off.items()]
        if self.compiled:
            notes.append("in compiled graphs torch's scaled_dot_product_attention ran; calls there are not counted")
        return table(self.backend, self.apply_to, list(self.rows.values()), notes)

    def _in_use(self) -> bool:
        return any(row.backend != DEFAULT for row in self.rows.values())

    def _in_graph(self, given: Arguments) -> Tensor:
        """Compute inside a graph that is being compiled, where nothing can be measured: by torch's own attention, which compilers know."""
        self.compiled = True
        q, k, v = given.split()
        return given.join(F.scaled_dot_product_attention(q, k, v, attn_mask=given.additive()))

    def _serve(
        self,
        kind: str,
        call: Call,
        default: Callable[[], Tensor],
        default_name: str,
        run: Callable[[Backend], Tensor],
        inexact_too: bool,
        guarded: bool,
    ) -> Tensor:
        # A decision holds for all calls of this kind until a kernel is switched off. Small models make thousands of small calls.
        key = (kind, call, default_name, inexact_too, torch.get_num_threads(), len(self.off))
        row, out = self._choices.get(key), None
        if row is None:
            row, out, lasting = self._choose(kind, call, default, default_name, run, inexact_too)
            if lasting:
                self._choices[key] = row
        row.calls += 1
        if out is not None:
            return out  # the default's, computed while measuring
        if row.backend == DEFAULT:
            return default()
        try:
            out = run(self.backends[row.backend])
        except torch.OutOfMemoryError:
            return default()
        except Exception as error:
            self._switch_off(row.backend, f"it failed ({type(error).__name__}: {error})")
            return default()
        return self._checked(row.backend, out, default) if guarded else out

    def _choose(
        self, kind: str, call: Call, default: Callable[[], Tensor], default_name: str, run: Callable[[Backend], Tensor], inexact_too: bool
    ) -> tuple[Row, Tensor | None, bool]:
        """Return (the report's row of the kernel for this call, the default's output where measuring computed it, whether to remember the
        choice). A choice is not remembered where the default's output was not finite: then nothing could be compared."""
        allowed = {name: one for name, one in self.backends.items() if inexact_too or one.exact}
        able = {name: one for name, one in allowed.items() if name not in self.off and one.takes(call)}
        if not able:
            return self._row(kind, call, DEFAULT, {}), None, True
        rivals: dict[str, Callable[[], Tensor]] = {DEFAULT: default, **{name: partial(run, one) for name, one in able.items()}}
        times, out = self.selector.times(call, default_name, rivals, [name for name, one in able.items() if not one.exact])
        name = fastest(times, rivals if self.backend == AUTO else (self.backend,))
        return self._row(kind, call, name, times), out, times.get(DEFAULT) is not None

    def _checked(self, name: str, out: Tensor, default: Callable[[], Tensor]) -> Tensor:
        """Return `out`. Where that is not finite, return the default's output, and switch `name` off if the default's is finite."""
        if _finite(out):
            return out
        again = default()
        if _finite(again):
            self._blamed = True
            self._switch_off(name, "its output was not finite where the default's was")
        return again

    def _switch_off(self, name: str, why: str) -> None:
        self.off[name] = why
        log.warning("attention: %s is off for this model, because %s; the default is used", name, why)

    def _row(self, kind: str, call: Call, name: str, times: Times) -> Row:
        key = (kind, call.queries, call.keys, call.head_dim, call.dtype, call.masked, call.batch * call.heads, name)
        if key not in self.rows:
            own, taken = times.get(DEFAULT), times.get(name)
            gain = own / taken if own and taken else 1.0
            self.rows[key] = Row(kind, call.shape(), call.batch * call.heads, name, gain, own)
        return self.rows[key]


def _finite(out: Any) -> bool:
    return not isinstance(out, Tensor) or bool(torch.isfinite(out).all())
