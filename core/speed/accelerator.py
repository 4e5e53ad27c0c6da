"""Acceleration of one network where a measurement shows a gain: the alternatives are timed on its first real evaluations.

Rapid Diffusion (section 4.4, Table 3) compiles the whole pipeline ahead of time. On a small machine that can cost more time than it saves.
So each group of blocks is measured here, on arguments of a real evaluation. Compiling starts only after the network has run for as long as
compiling may take. Whatever is not faster, not equal or not possible stays unchanged.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn

from ..device import out_of_memory
from .apply import applied, call_afresh, first_line, runner
from .compiler import Compiled, missing_compiler
from .decisions import report, summary
from .eager import BF16_SAME, Order, choose
from .measure import GAIN, best_seconds, difference, rounding
from .plan import Options, Plan
from .regions import NOT_COMPILED, Sample, find_groups, first_tensor, observe
from .whole import SAME, THROUGHOUT, arrange, can_stay_closed, compiling_time, try_bf16, whole_plan

log = logging.getLogger("rapiddraw")


class Accelerator:
    """Runs the evaluations of one network. Its measurements are kept as long as the network, so that a LoRA, another seed or the same
    node run again costs nothing more."""

    def __init__(self, name: str, network: nn.Module, options: Options) -> None:
        self.name, self.options = name, options
        self.plans = [Plan(group) for group in find_groups(network)]
        self.whole = whole_plan(network) if self.plans else None
        self.companions: dict[str, Accelerator] = {}
        self.notes: list[str] = []
        self.busy = self.spent = 0.0
        self.channels_last = False
        self._network = weakref.ref(network)
        self._left: str | None = None
        self._measured, self._compiling, self._lock = False, options.compile != "never", threading.Lock()

    def run(self, call: Callable[[], Any], left: str | None = None) -> Any:
        """Return `call()`, one evaluation. Measures and compiles when it is time, and raises nothing that `call` would not.

        `left` is the reason why another node accelerates this evaluation, which is then left unchanged.
        """
        if left != self._left:  # the graph was changed
            self.notes = [note for note in self.notes if note != self._left]
            self._left = left
        if left is not None:
            self._warn(left)
            return call()
        network = self._network()
        # No blocks to accelerate, a training, or an evaluation inside another.
        if network is None or not self.plans or torch.is_grad_enabled() or not self._lock.acquire(blocking=False):
            return call()
        try:
            started, samples = time.perf_counter(), None
            with self._applied(network):
                if self._due():
                    out, samples = observe([plan.group for plan in self._all()], call, self.whole.group if self.whole else None)
                else:
                    out = call()
            self.busy += time.perf_counter() - started
            if samples is not None and any(sample.seen for sample in samples):
                self._learn(samples)
            return out
        finally:
            self._lock.release()

    def report(self) -> str:
        """Return the measurements and decisions, with one line for each group of blocks."""
        return report(self.name, self.plans, self.whole, self._measured, self.summary(), self.notes)

    def summary(self) -> str:
        """Return one line: how the network runs, how much faster than eager, and the time spent on measuring and compiling."""
        return summary(self.plans, self.whole, self.channels_last, self.spent, self._compiling)

    def _all(self) -> list[Plan]:
        return self.plans if self.whole is None else [*self.plans, self.whole]

    def _due(self) -> bool:
        if not self._measured:
            return True
        return self._compiling and (self.options.compile == "at once" or self.busy >= self.options.budget)

    def _learn(self, samples: list[Sample]) -> None:
        """Decide by the samples of one evaluation. An error here leaves the network unchanged."""
        started = time.perf_counter()
        deadline = started + self.options.budget
        order = sorted(zip(self.plans, samples, strict=False), key=lambda pair: -pair[1].seconds)
        try:
            with torch.no_grad():
                if not self._measured:
                    self._choose(order, samples[-1], deadline)
                    self._measured = True
                if self._due():
                    self._compiling = False
                    if self._can_compile(samples) and (self._in_one_piece() or self._compile(order, deadline)):
                        self._compile_whole(samples[-1], deadline)
        except Exception as error:
            why = "memory ran out" if out_of_memory(error) else first_line(error)
            self._warn(f"measuring stopped ({why}); the rest runs unchanged")
            self._compiling = False
        self._measured = True
        self.spent += time.perf_counter() - started
        log.info("speed: %s: %s", self.name, self.summary())

    def _choose(self, order: Order, sample: Sample, deadline: float) -> None:
        """Measure the ways that need no compiler. Where bf16 throughout is clearly faster, nothing else is measured. Otherwise the blocks
        are measured one structure after the other; then the whole network (`sample`) confirms or refuses the decisions for the blocks."""
        allow_bf16, whole = self.options.precision == "auto", self.whole if sample.seen else None
        if whole is not None and allow_bf16:
            try_bf16(whole, sample, deadline)
            if whole.changed:
                return
        self.channels_last = choose(order, allow_bf16, deadline)
        if whole is None:
            return
        changed = self.channels_last or any(plan.changed for plan in self.plans)
        by_blocks = partial(self._by_blocks, whole.group.alive()[0], sample) if changed else None
        if not arrange(whole, sample, by_blocks, allow_bf16, deadline):
            self._note("the decisions for the blocks did not make the network faster; the blocks stay unchanged")
            self.channels_last = False
            for plan in self.plans:
                plan.bf16, plan.now = False, plan.eager

    def _in_one_piece(self) -> bool:
        return self.whole is not None and self.whole.changed

    def _can_compile(self, samples: list[Sample]) -> bool:
        tensor = first_tensor(value for sample in samples for value in sample.args)
        missing = missing_compiler(tensor.device) if tensor is not None else None
        if missing:
            self._warn(f"not compiled: {missing}; eager runs")
        return tensor is not None and not missing

    def _compile_whole(self, sample: Sample, deadline: float) -> None:
        """Compile the network in one piece, where that is expected to end before `deadline`."""
        whole = self.whole
        if whole is None or not sample.seen or not can_stay_closed():
            return
        seconds = compiling_time(whole)
        if time.perf_counter() + seconds > deadline:
            return self._note(f"not compiled in one piece: that may take {seconds:.0f} s, and the budget is {self.options.budget:g} s")
        log.info("compiling the whole %s, which may take %.0f s", self.name, seconds)
        try:
            if self._try_compiled(whole, sample) and whole.compiled is not None:
                whole.compiled.closed = True
        except Exception as error:
            if out_of_memory(error):
                raise
            self._warn(f"the network could not be compiled in one piece ({first_line(error)})")
        return None

    def _compile(self, order: Order, deadline: float) -> bool:
        """Compile group after group, the costliest first, until `deadline`. A kind whose costliest block gains nothing is skipped. Return
        whether the compiler works and time is left."""
        hopeless: set[str] = set()
        for plan, sample in order:
            if not sample.seen or not plan.group.alive() or plan.group.kind in (*hopeless, *NOT_COMPILED):
                continue
            if time.perf_counter() > deadline:
                self._note(f"the budget of {self.options.budget:g} s ended before every group was tried")
                return False
            try:
                if not self._try_compiled(plan, sample):
                    hopeless.add(plan.group.kind)
            except Exception as error:
                if out_of_memory(error):
                    raise
                self._warn(f"a {plan.group.kind} could not be compiled ({first_line(error)}); eager runs")
                return False
        return True

    def _try_compiled(self, plan: Plan, sample: Sample) -> bool:
        """Compile one group and keep it where it is faster and equal. Return whether it was kept; raises what the compiler raises."""
        module = plan.group.alive()[0]
        compiled, out = self._compiled(plan, sample, module)
        runners = {"now": self._runner(plan, module), "compiled": self._runner(Plan(plan.group, plan.bf16, compiled), module, strict=True)}
        ways = {name: partial(call_afresh, run, sample) for name, run in runners.items()}
        eager = partial(call_afresh, partial(plan.group.function, module), sample)
        if plan is self.whole:
            ways["eager"] = eager  # measured again here, so both timings come from the same minute
            ways["now"] = ways["now"] if plan.bf16 else partial(self._by_blocks, module, sample)
        reference = eager()
        error, whole = difference(out, reference), plan is self.whole
        if error > ((SAME if whole else BF16_SAME) if plan.bf16 else rounding(reference) * (THROUGHOUT if whole else 1)):
            self._warn(f"a compiled {plan.group.kind} differed from eager by {error:.1e}; not used")
            return False
        times = best_seconds(ways)
        plan.now, plan.eager = times["now"], times.get("eager", plan.eager or times["now"])
        if times["compiled"] >= GAIN * times["now"]:
            self._note(f"a compiled {plan.group.kind} took {times['compiled'] / times['now']:.2f} of the time; not used")
            return False
        plan.compiled, plan.now = compiled, times["compiled"]
        return True

    def _compiled(self, plan: Plan, sample: Sample, module: nn.Module) -> tuple[Compiled, Any]:
        """Return (the group's compiled function, its result for the sample). First one graph serves every batch size. Where torch fails at
        that (it mistakes the memory format of a convolution's result), a batch of one gets a graph of its own."""
        tensors = sum(isinstance(value, torch.Tensor) for value in (*sample.args, *sample.kwargs.values()))
        for one_input in (True, False) if tensors == 1 else (False,):
            compiled = Compiled(plan.group.function, one_input=one_input)
            try:
                return compiled, call_afresh(self._runner(Plan(plan.group, plan.bf16, compiled), module, strict=True), sample)
            except Exception as error:
                if not one_input or out_of_memory(error):
                    raise
                log.debug("speed: %s: a %s is compiled for single pictures (%s)", self.name, plan.group.kind, first_line(error))
        raise AssertionError("one of the two returned or raised")

    def _applied(self, network: nn.Module) -> AbstractContextManager[None]:
        """Run the network as decided, inside the `with` block."""
        return applied(network, self.plans, self.whole, self.channels_last, self._runner)

    def _runner(self, plan: Plan, module: nn.Module, strict: bool = False) -> Callable[..., Any]:
        return runner(plan, module, None if strict else self._warn)

    def _by_blocks(self, network: nn.Module, sample: Sample) -> Any:
        """Return one evaluation of the network, as decided for its blocks, on a sample of its own arguments."""
        with self._applied(network):
            return call_afresh(network, sample)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _warn(self, text: str) -> None:
        if text not in self.notes:
            log.warning("speed: %s: %s", self.name, text)
        self._note(text)


_known: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, Options], Accelerator]] = weakref.WeakKeyDictionary()


def accelerator_for(name: str, network: nn.Module, options: Options) -> Accelerator:
    """Return the accelerator of a network under these options: always the same one for the same network, with its measurements."""
    own = _known.setdefault(network, {})
    if (name, options) not in own:
        own[name, options] = Accelerator(name, network, options)
    return own[name, options]
