"""What only a GPU can say: attention kernels, compiling, bf16, Picard's batches, upscaling and low rank, each against the plain path.

    python -m rapiddraw bench gpu                         under eight minutes on one GPU
    python -m rapiddraw bench gpu --only attention,compile
    python -m rapiddraw bench gpu --dry --results DIR     the same code on tiny networks on the CPU: a test of it, no measurement

The networks have random weights and the size of SD 1.5 (512 px), SDXL (1024 px) and a diffusion transformer (PixArt's shape, 512 px). The
plain path is the same network in float32 with torch's own attention, measured in turns with its rival. Results of a GPU lie in
`benchmarks/results/gpu/` and stand in a chapter of their own in the report.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..core.metrics.bootstrap import Estimate, smallest
from . import common
from .checks import CHOSEN, Expectation, at_least, at_most, exact
from .gpu_networks import NAMES, Subject, subject
from .stopwatch import gain_cells, interleave, ratio, turns

PARTS = ("attention", "compile", "picard", "lowrank", "upscale")
SHAPES = {  # batch, heads, queries, keys, head size, masked
    "SD 1.5 self 4096 d40": (2, 8, 4096, 4096, 40, False), "SDXL self 4096 d64": (2, 10, 4096, 4096, 64, False),
    "SDXL cross 4096x77 d64": (2, 10, 4096, 77, 64, False), "DiT self 1024 d72": (2, 16, 1024, 1024, 72, False),
}  # fmt: skip
TINY_SHAPES = {"self 64 d16": (1, 2, 64, 64, 16, False)}
WINDOW, SHARE, COMPILE_SECONDS = 16, 0.61, 40.0
LONGEST = {"attention": 30, "picard": 30, "lowrank": 30, "compile": 110, "upscale": 30}
"""Seconds that a part takes at most on one network."""
Row = dict[str, Any]
log = logging.getLogger("rapiddraw")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench gpu`."""
    parser.add_argument("--only", metavar="PARTS", help=f"some of {','.join(PARTS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=7.5, help="no part begins that could end after so long (7.5)")
    parser.add_argument("--repeats", type=int, default=7, help="timed turns of each (7)")
    parser.add_argument("--dry", action="store_true", help="tiny networks on the CPU, to try the code; needs --results")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    timed, fewest = turns(args.repeats), "the least of the networks"
    return {
        "attention": Expectation("times as fast as torch's attention with auto, the worst shape", at_least(0.97), CHOSEN, timed),
        "error": Expectation("largest error of any kernel in bfloat16, relative", at_most(0.02), CHOSEN, exact(len(SHAPES), "shapes")),
        "compile": Expectation(f"times as fast as plain with Compile in bf16, {fewest}", at_least(1.5), CHOSEN, timed),
        "difference": Expectation(
            "difference to plain with Compile in bf16, relative, the most", at_most(0.02), CHOSEN, exact(3, "networks")
        ),
        "picard": Expectation(f"times as fast: {WINDOW} states in one call against one by one, {fewest}", at_least(1.2), CHOSEN, timed),
        "lowrank": Expectation(f"times as fast as dense with {SHARE} of the parameters, {fewest}", at_least(1.0), CHOSEN, timed),
        "upscale": Expectation("times as fast as float32 tiles with bf16 where it is exact", at_least(1.0), CHOSEN, timed),
    }


@dataclass
class _Found:
    """What was measured until now, within the time that is allowed."""

    args: argparse.Namespace
    device: Any
    rows: list[Row] = field(default_factory=list)
    gains: dict[str, list[Estimate]] = field(default_factory=dict)
    errors: dict[str, list[float]] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def taken(self) -> float:
        return time.perf_counter() - self.started

    def attempt(self, part: str, what: str, measure: Callable[[], None]) -> None:
        """Measure where time and memory allow it, and write down where they do not."""
        from ..core.device import out_of_memory

        if self.taken() + LONGEST[part] > 60 * self.args.minutes:
            self.rows.append({"part": part, "what": what, "left out": "no time was left"})
            return
        log.info("bench gpu: %s, %s (%.0f s so far)", part, what, self.taken())
        try:
            measure()
        except Exception as error:
            if not out_of_memory(error):
                raise
            self.rows.append({"part": part, "what": what, "left out": "out of memory"})

    def compare(self, part: str, what: str, rivals: Mapping[str, Callable[[], Any]], checked: str, alike: bool = False) -> None:
        """Time `rivals` in turns against the first. The gain of `checked` is judged, and where outputs are `alike` its difference."""
        outputs = {name: run().float() for name, run in rivals.items()} if alike else {}
        times = interleave(rivals, self.args.repeats)
        first = next(iter(rivals))
        for name, taken in times.items():
            row: Row = {"part": part, "what": what, "setting": name, "ms": taken.milliseconds()}
            if name != first:
                row |= gain_cells(ratio(times[first], taken))
            if alike and name != first:
                off = float((outputs[name] - outputs[first]).norm() / outputs[first].norm())
                row["difference"] = float(f"{off:.2e}")
                if name == checked:
                    self.errors.setdefault("difference", []).append(off)
            self.rows.append(row)
        self.gains.setdefault(part, []).append(ratio(times[first], times[checked]))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`). Raises :class:`InputError` without a GPU."""
    import torch

    from ..core.errors import InputError

    parts = common.chosen_names(args.only, list(PARTS), "part")
    if args.dry and args.results is None:
        raise InputError("--dry measures nothing worth keeping: give --results with a folder of your own")
    if not args.dry and not torch.cuda.is_available():
        raise InputError("bench gpu needs a GPU that torch can use, and torch finds none; --dry tries the code on the CPU")
    found = _Found(args, torch.device("cpu" if args.dry else "cuda"))
    if "attention" in parts:
        for name, shape in (TINY_SHAPES if args.dry else SHAPES).items():
            found.attempt("attention", name, partial(_attention, found, name, shape))
    networks = {part: measure for part, measure in _OF_A_NETWORK.items() if part in parts}
    for name in NAMES if networks else ():
        one = subject(name, found.device, args.dry)
        for part, measure in networks.items():
            found.attempt(part, name, partial(measure, found, one))
        del one
        torch.cuda.empty_cache()
    if "upscale" in parts:
        found.attempt("upscale", "RRDBNet x4", partial(_upscale, found))
    wanted = expectations(args)
    checks = [wanted[part].judge(smallest(gains)) for part, gains in found.gains.items()]
    checks += [wanted[key].judge(max(values)) for key, values in found.errors.items()]
    notes = f"Took {found.taken():.0f} s. The weights are random: times are those of trained networks of this size; no picture is drawn."
    settings = {"parts": parts, "repeats": args.repeats, "window": WINDOW, "share": SHARE, "dry": args.dry}
    return common.result("gpu", "python -m rapiddraw bench gpu", found.rows, checks, settings=settings, notes=notes, reports=found.reports)


def _attention(found: _Found, name: str, shape: tuple[int, int, int, int, int, bool]) -> None:
    """Every exact kernel, and the one that the pack chose, against torch's own attention in bfloat16."""
    import torch

    from ..core.attention.memory import Memory
    from ..core.attention.select import Selector
    from .attention import one_shape, torch_attention

    repeats = found.args.repeats
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        selector = Selector(Memory(Path(folder) / "attention.json"))
        row = one_shape(name, shape, torch_attention, selector, found.device, torch.bfloat16, repeats)
    low, high = row["gain 95%"] or (None, None)
    found.gains.setdefault("attention", []).append(Estimate(row["gain"], low, high, repeats))
    found.errors.setdefault("error", []).append(row["largest error"])
    kept = ("auto took", "best", "largest error", "gain", "gain 95%")
    found.rows.append({"part": "attention", "what": name, "ms": row["auto ms"], **{key: row[key] for key in kept}})


def _picard(found: _Found, one: Subject) -> None:
    """A window's states in one call against one call each. Picard's wall clock gains this times steps / (iterations x window)."""
    single, whole = one.step(), one.step(WINDOW)
    together = f"{WINDOW} states in one call"
    found.compare("picard", one.name, {"one by one": lambda: [single() for _ in range(WINDOW)], together: whole}, together)


def _lowrank(found: _Found, one: Subject) -> None:
    """The dense network against one with factors in the place of its weights; zeros, because the time does not depend on them."""
    from ..core.lowrank.factorize import factorize

    low, factored = one.copied(), f"{SHARE} of the parameters"
    factorize(low.network, "param_ratio", SHARE, values=False)
    found.compare("lowrank", one.name, {"dense": one.step(), factored: low.step()}, factored)


def _compile(found: _Found, one: Subject) -> None:
    """The plain network against what Compile decides for it, its precision kept or not, and against all of it in bf16."""
    import torch

    from ..core.speed.accelerator import Accelerator
    from ..core.speed.plan import Options

    plain, checked = one.step(), "Compile, bf16 where equal"
    rivals: dict[str, Callable[[], Any]] = {"plain float32": plain}
    small = one.copied()
    small.network.to(torch.bfloat16)
    with torch.no_grad():  # Compile leaves a training alone
        for setting, precision in (("Compile", "keep"), (checked, "auto")):
            accelerator = Accelerator(one.name, one.network, Options(precision, "never" if found.args.dry else "at once", COMPILE_SECONDS))
            rivals[setting] = partial(accelerator.run, plain)
            rivals[setting]()  # this evaluation measures and compiles, and is itself computed as before
            found.reports[f"{one.name}, {setting}"] = accelerator.report()
        found.compare("compile", one.name, rivals | {"all in bf16": small.step()}, checked, alike=True)


def _upscale(found: _Found) -> None:
    """ESRGAN Upscale in tiles, float32 against bf16 where no pixel changes by more than 1/255."""
    import torch

    from ..core.upscale.layouts import RRDBConfig
    from ..core.upscale.rrdb import Upscaler, build
    from ..core.upscale.tiles import upscale

    dry = found.args.dry
    config = RRDBConfig(num_feat=8, num_block=1, num_grow=8) if dry else RRDBConfig()
    model = Upscaler(build(config, device=found.device).eval(), config)
    image = torch.rand(1, *[24 if dry else 512] * 2, 3, generator=torch.Generator().manual_seed(0))
    checked = "bf16 where equal"
    rivals = {name: partial(upscale, model, image, precision=precision) for name, precision in (("float32", "keep"), (checked, "auto"))}
    with torch.inference_mode():
        found.compare("upscale", "RRDBNet x4", rivals, checked, alike=True)


_OF_A_NETWORK: dict[str, Callable[[_Found, Subject], None]] = {"picard": _picard, "lowrank": _lowrank, "compile": _compile}
