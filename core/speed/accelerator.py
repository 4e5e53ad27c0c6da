"""One network, sped up where measurement says so: on the first real evaluations, with their own shapes, eager against the alternatives.

Rapid Diffusion (section 4.4, table 3) compiles the whole pipeline ahead of time. On a small machine that can cost more than it ever gives
back, so here nothing is believed: each group of blocks is measured on arguments that really occurred, compilation starts only once the
network has run for as long as compiling may take, and whatever is not faster, not equal or not possible stays as it was.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from ..upscale.memory import out_of_memory
from .compiler import MAX_GRAPHS, Compiled, missing_compiler
from .eager import BF16_SAME, Order, choose, in_bf16
from .measure import GAIN, best_seconds, difference
from .plan import Options, Plan
from .regions import NOT_COMPILED, Sample, channels_last, find_groups, observe, replaced

COMPILED_SAME = 1e-4
"""The most that compiling may change a block's result, relative to its size."""
log = logging.getLogger("rapiddraw")


class Accelerator:
    """Runs the evaluations of one network. Everything it learns is kept for the network's life, so that a LoRA, another seed or the same
    node run again costs nothing anew."""

    def __init__(self, name: str, network: nn.Module, options: Options) -> None:
        self.name, self.options = name, options
        self.plans = [Plan(group) for group in find_groups(network)]
        self.companions: dict[str, Accelerator] = {}
        self.notes: list[str] = []
        self.busy = self.spent = 0.0
        self.last_first = False
        self._network = weakref.ref(network)
        self._measured, self._compiling, self._lock = False, options.compile != "never", threading.Lock()

    def run(self, call: Callable[[], Any]) -> Any:
        """One evaluation: what `call()` returns. Measures and compiles when it is time to; never raises what `call` would not."""
        network = self._network()
        # Nothing to do, a training, or an evaluation inside another.
        if network is None or not self.plans or torch.is_grad_enabled() or not self._lock.acquire(blocking=False):
            return call()
        try:
            started, samples = time.perf_counter(), None
            with self._applied(network):
                if self._due():
                    out, samples = observe([plan.group for plan in self.plans], call)
                else:
                    out = call()
            self.busy += time.perf_counter() - started
            if samples is not None and any(sample.seen for sample in samples):
                self._learn(samples)
            return out
        finally:
            self._lock.release()

    def report(self) -> str:
        """What was measured and decided, a line for each group of blocks."""
        if not self.plans:
            return f"{self.name}: nothing in this network is known to gain from it; it runs as it is"
        if not self._measured:
            return f"{self.name}: has not run yet; take the report after sampling"
        measured = sorted((plan for plan in self.plans if plan.eager), key=lambda plan: -plan.share)
        lines = [f"{self.name}: {self.summary()}", *(f"  {plan.line()}" for plan in measured), *(f"  {note}" for note in self.notes)]
        return "\n".join(lines)

    def summary(self) -> str:
        """One line: how its blocks run, how much faster than eager, and what finding out cost."""
        before = sum(plan.eager * len(plan.group.modules) for plan in self.plans)
        after = sum(plan.now * len(plan.group.modules) for plan in self.plans)
        ways = sorted({plan.how() for plan in self.plans if plan.changed}) + ["channels-last"] * self.last_first
        kept = " and ".join(ways) if ways else "eager kept, nothing measured was faster"
        waiting = ", compiling not begun yet" if self._compiling else ""
        gain = before / after if after else 1.0
        return f"{kept}; blocks {gain:.2f}x as fast; {self.spent:.1f} s of measuring and compiling{waiting}"

    def _due(self) -> bool:
        if not self._measured:
            return True
        return self._compiling and (self.options.compile == "at once" or self.busy >= self.options.budget)

    def _learn(self, samples: list[Sample]) -> None:
        """Decide from what one evaluation showed. Whatever goes wrong here leaves the network as it was."""
        started = time.perf_counter()
        order = sorted(zip(self.plans, samples, strict=True), key=lambda pair: -pair[1].seconds)
        try:
            with torch.no_grad():
                if not self._measured:
                    self.last_first = choose(order, self.options.precision == "auto", started + self.options.budget)
                    self._measured = True
                if self._due():
                    self._compile(order, started + self.options.budget)
        except Exception as error:
            why = "memory ran out" if out_of_memory(error) else _first_line(error)
            self._warn(f"measuring stopped ({why}); the rest runs as it was")
            self._compiling = False
        self._measured = True
        self.spent += time.perf_counter() - started
        log.info("speed: %s: %s", self.name, self.summary())

    def _compile(self, order: Order, deadline: float) -> None:
        """Compile group after group, the costliest first, until `deadline`; a kind whose costliest block does not gain is left."""
        self._compiling = False
        hopeless: set[str] = set()
        for plan, sample in order:
            tensor = next((value for value in sample.args if isinstance(value, torch.Tensor)), None)
            if tensor is None or not plan.group.alive() or plan.group.kind in (*hopeless, *NOT_COMPILED):
                continue
            missing = missing_compiler(tensor.device)
            if missing:
                return self._warn(f"not compiled: {missing}; eager runs")
            if time.perf_counter() > deadline:
                return self._note(f"the budget of {self.options.budget:g} s was spent before every group was tried")
            try:
                if not self._try_compiled(plan, sample):
                    hopeless.add(plan.group.kind)
            except Exception as error:
                if out_of_memory(error):
                    raise
                return self._warn(f"a {plan.group.kind} could not be compiled ({_first_line(error)}); eager runs")
        return None

    def _try_compiled(self, plan: Plan, sample: Sample) -> bool:
        """Compile one group; keep it where it is faster and the same. What the compiler raises is the caller's."""
        module = plan.group.alive()[0]
        compiled, out = self._compiled(plan, sample, module)
        now = partial(self._runner(plan, module), *sample.args, **sample.kwargs)
        then = partial(self._runner(Plan(plan.group, plan.bf16, compiled), module, strict=True), *sample.args, **sample.kwargs)
        error = difference(out, plan.group.function(module, *sample.args, **sample.kwargs))
        if error > (BF16_SAME if plan.bf16 else COMPILED_SAME):
            self._warn(f"a compiled {plan.group.kind} differed from eager by {error:.1e}; not used")
            return False
        times = best_seconds({"now": now, "compiled": then})
        plan.now, plan.eager = times["now"], plan.eager or times["now"]
        if times["compiled"] >= GAIN * times["now"]:
            self._note(f"a compiled {plan.group.kind} took {times['compiled'] / times['now']:.2f} of the time; not used")
            return False
        plan.compiled, plan.now = compiled, times["compiled"]
        return True

    def _compiled(self, plan: Plan, sample: Sample, module: nn.Module) -> tuple[Compiled, Any]:
        """The group's compiled function, and what it makes of the sample. First with a batch of any size in one graph; where torch cannot
        do that (it mistakes the memory format that a convolution's result will have), with a graph of its own for a batch of one."""
        tensors = sum(isinstance(value, torch.Tensor) for value in (*sample.args, *sample.kwargs.values()))
        for one_input in (True, False) if tensors == 1 else (False,):
            compiled = Compiled(plan.group.function, one_input=one_input)
            try:
                return compiled, self._runner(Plan(plan.group, plan.bf16, compiled), module, strict=True)(*sample.args, **sample.kwargs)
            except Exception as error:
                if not one_input or out_of_memory(error):
                    raise
                log.debug("speed: %s: a %s is compiled for single pictures (%s)", self.name, plan.group.kind, _first_line(error))
        raise AssertionError("one of the two returned or raised")

    @contextlib.contextmanager
    def _applied(self, network: nn.Module) -> Iterator[None]:
        """The network as decided, while the block runs."""
        with contextlib.ExitStack() as stack:
            for plan in self.plans:
                if plan.changed:
                    stack.enter_context(replaced(plan.group, partial(self._runner, plan)))
            if self.last_first:
                halves = [half for half in (getattr(network, name, None) for name in ("encoder", "decoder")) if half is not None]
                for root in halves or [network]:
                    stack.callback(root.register_forward_pre_hook(_turn, with_kwargs=True).remove)
            yield

    def _runner(self, plan: Plan, module: nn.Module, strict: bool = False) -> Callable[..., Any]:
        """A block's method as planned. Where that fails, eager from then on, with one warning; `strict` raises instead."""

        def run(*args: Any, **kwargs: Any) -> Any:
            function, compiled = plan.group.function, plan.compiled
            if not plan.changed:
                return function(module, *args, **kwargs)
            try:
                out = (partial(in_bf16, compiled or function) if plan.bf16 else compiled or function)(module, *args, **kwargs)
            except Exception as error:
                if strict or out_of_memory(error):
                    raise
                plan.compiled, plan.bf16 = None, False
                self._warn(f"a {plan.group.kind} failed as planned ({_first_line(error)}); eager runs from here")
                return function(module, *args, **kwargs)
            if compiled is not None and compiled.count > MAX_GRAPHS:
                plan.compiled = None
                self._warn(f"a {plan.group.kind} had to be compiled {compiled.count} times; eager runs from here")
            return out

        return run

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _warn(self, text: str) -> None:
        if text not in self.notes:
            log.warning("speed: %s: %s", self.name, text)
        self._note(text)


_known: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, Options], Accelerator]] = weakref.WeakKeyDictionary()


def accelerator_for(name: str, network: nn.Module, options: Options) -> Accelerator:
    """The accelerator of a network under these options: the same one again for the same network, with all that it has learnt."""
    own = _known.setdefault(network, {})
    if (name, options) not in own:
        own[name, options] = Accelerator(name, network, options)
    return own[name, options]


def _turn(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(channels_last(value) for value in args), kwargs


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
