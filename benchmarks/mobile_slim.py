"""The shipped U-Net slimmed to a share of its time: a part of `bench mobile` (SnapFusion, Algorithm 1)."""

from __future__ import annotations

from typing import Any

from .checks import CHOSEN, Basis, Check, Expectation, at_least, at_most
from .mobile_lab import SIDE, Lab
from .stopwatch import ratio, turns

SHARE, LOST = 0.6, 0.03
TARGET = 0.57
"""The budget of the evolution: a little less than :data:`SHARE`, because its table of blocks knows no time between them."""
MEASURE = "time"
"""What the budget is of; without timings multiply-adds are."""
ROBUST, BATCH, LR = 100, 8, 5e-4
NAME = "slim-unet"


def expectations(count: int, repeats: int) -> dict[str, Expectation]:
    """Return the expectations by key."""
    wanted = {"accuracy": Expectation("AA of the slimmed U-Net less the whole one's", at_least(-LOST), CHOSEN, Basis(count))}
    if repeats:
        wanted["time"] = Expectation("time of the slimmed U-Net over the whole one's", at_most(SHARE), CHOSEN, turns(repeats))
    return wanted


def slimmed(lab: Lab, steps: int) -> Any:
    """Return the slimmed U-Net as a MODEL, trained for `steps` steps unless it lies in the folder."""
    from ..core.operations.distill import Run
    from ..core.operations.slim_model import Slim, SlimDistillation, slim_model

    parts, measured = lab.parts, MEASURE if lab.repeats else "multiply-adds"
    if not lab.made(NAME).is_file():
        slim = Slim(latency=TARGET, measure=measured, robust_steps=min(ROBUST, steps))
        recipe = SlimDistillation(lr=LR, batch_size=BATCH, size=SIDE)
        with lab.open():
            slim_model(parts.model, parts.clip, parts.vae, "pictures", NAME, slim, recipe, Run(steps))
    return parts.host.model.load(lab.made(NAME))


def measure(lab: Lab, steps: int) -> tuple[list[dict[str, Any]], list[Check]]:
    """Return (rows, checks)."""
    from ..core.metrics.bootstrap import difference, mean
    from ..core.slim.changes import changes_of

    wanted = expectations(lab.count, lab.repeats)
    models = {"the shipped U-Net": lab.parts.model, "slimmed": slimmed(lab, steps)}
    times, rows, found = lab.times(models), [], {}
    for name, model in models.items():
        found[name] = lab.accuracy(model)
        accuracy = mean(found[name])
        row = {"model": name, **lab.sizes(model), "AA": round(accuracy.value, 3), "AA interval": [accuracy.low, accuracy.high]}
        row |= {"ms": times[name].milliseconds()} if times else {}
        rows.append({**row, "changes": changes_of(lab.network(model)).summary()})
    whole, small = models
    checks = [wanted["accuracy"].judge(difference(found[small], found[whole]))]
    if times:
        checks.append(wanted["time"].judge(ratio(times[small], times[whole])))
    return rows, checks
