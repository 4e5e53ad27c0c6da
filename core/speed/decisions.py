"""Measurements and decisions for a network, in words."""

from __future__ import annotations

from .plan import Plan


def report(name: str, plans: list[Plan], whole: Plan | None, measured: bool, line: str, notes: list[str]) -> str:
    """Return a line for the network, and a line for each measured group of its blocks, the costliest first."""
    if not plans:
        return f"{name}: nothing in this network is known to gain from it; it runs as it is"
    if not measured:
        return f"{name}: {notes[0] if notes else 'has not run yet; take the report after sampling'}"
    known = sorted((plan for plan in plans if plan.eager), key=lambda plan: -plan.share)
    if whole is not None and whole.eager:
        known.insert(0, whole)
    return "\n".join([f"{name}: {line}", *(f"  {plan.line()}" for plan in known), *(f"  {note}" for note in notes)])


def summary(plans: list[Plan], whole: Plan | None, channels_last: bool, spent: float, waiting: bool) -> str:
    """Return one line: how the network runs, how much faster than eager, and the seconds `spent` on measuring and compiling."""
    later = ", compiling not begun yet" if waiting else ""
    cost = f"{spent:.1f} s of measuring and compiling{later}"
    if whole is not None and whole.changed:
        return f"in one piece {whole.how()}; the network {_gain(whole.eager, whole.now)}; {cost}"
    ways = sorted({plan.how() for plan in plans if plan.changed}) + ["channels-last"] * channels_last
    if not ways:
        return f"kept as it was, nothing measured was faster; {cost}"
    before = sum(plan.eager * len(plan.group.modules) for plan in plans)
    after = sum(plan.now * len(plan.group.modules) for plan in plans)
    return f"{' and '.join(ways)}; blocks {_gain(before, after)}; {cost}"


def _gain(before: float, after: float) -> str:
    return f"{before / after if after else 1.0:.2f}x as fast"
