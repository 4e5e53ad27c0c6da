"""Few steps: the teacher in few steps against students of it, by every method of distillation.

    python -m rapiddraw bench few-step
    python -m rapiddraw bench few-step --methods shipped

Each method is trained for the same number of steps on what the teacher draws, unless its student lies in --students already; `shipped`
are the students in weights/. All draw the same prompts of the Orchard, of names that captions have (seen) and of names that only the graph
has (unseen), from the same noise. The teacher is drawn by DDIM, DPM-Solver++(2M) and PLMS. `vanilla` is progressive distillation without
guidance, which is then guided by the sampler, as SnapFusion compares it. A student of 8 steps stands for the method over guidance scales.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, Basis, Expectation, above, at_least, at_most
from .few_step_students import METHODS, SHIPPED, find_student

TEACHERS = {"ddim": ("sgm_uniform", 0), "dpmpp_2m": ("karras", 0), "plms": ("normal", -1)}
"""Samplers of the teacher: schedule, and by how much the steps differ from the evaluations."""
TEACHER_STEPS = (1, 2, 4, 8, 50)
FEW = (8, 4, 2, 1)
GUIDANCE = 4.0
SCALES = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0)
SCALED = ("vanilla", "cfg_aware", "guidance_embedded")
SPLITS = ("seen", "unseen")
NAMES = [SHIPPED, *METHODS]
FID_RESAMPLES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench few-step`."""
    parser.add_argument("--count", type=int, default=64, help="pictures a split and condition (64); FID-A needs 1000")
    parser.add_argument("--few", type=int, nargs="+", default=list(FEW), help="steps of the students that are trained here (8 4 2 1)")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=NAMES, help="methods (all)")
    parser.add_argument("--teacher-steps", type=int, nargs="+", default=list(TEACHER_STEPS), help="steps of the teacher (1 2 4 8 50)")
    parser.add_argument("--train-steps", type=int, default=300, help="training steps of a student that is missing (300)")
    parser.add_argument("--students", type=Path, default=Path("runs/few-step"), help="folder of the students (runs/few-step)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis = Basis(args.count)
    found = {
        "four": Expectation("seen AA of the best 4-step student less the teacher's at 50 steps", at_least(-0.02), CHOSEN, basis),
        "one": Expectation("seen AA of the best 1-step student less the teacher's at 4 steps", above(0), CHOSEN, basis),
        "unseen": Expectation("unseen AA of the best 4-step student less the teacher's at 50 steps", at_least(-0.02), CHOSEN, basis),
        "aware": Expectation("seen AA of cfg_aware less vanilla at scales of 3 and more", above(0), CHOSEN, basis),
        "told": Expectation("seen AA of guidance_embedded less cfg_aware, half the evaluations", at_least(-0.02), CHOSEN, basis),
    }
    if _enough(args.count):
        found["fid"] = Expectation("seen FID-A of the best 4-step student over the teacher's at 50 steps", at_most(1.1), CHOSEN, basis)
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from ..core.diffusion.samplers import SAMPLERS
    from ..core.fewstep.find import read_student
    from ..core.metrics.sampling_runs import open_orchard
    from ..core.operations.few_step import apply_student

    wanted = expectations(args)
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, int, float], Any] = {}
    for split in SPLITS:
        orchard = open_orchard(args.count, split, seed=7)
        reader = _Reader(orchard, split, args.count)
        runs = orchard.runs.using(cfg=GUIDANCE)
        for name, (schedule, less) in TEACHERS.items():
            for steps in args.teacher_steps:
                taken = max(1, steps + less)
                drawn = runs.draw(SAMPLERS[name], runs.sigmas(schedule, taken))
                row = {"model": f"teacher, {name}", "steps": taken, "scale": GUIDANCE, "evaluations": 2 * drawn.calls}
                rows.append(reader.row(row, drawn.latents, seen))
        for method in args.methods:
            for few in FEW if method == SHIPPED else args.few:
                path = find_student(method, few, args.students, args.train_steps)
                if path is None:
                    continue
                scales = SCALES if method in SCALED and few == max(args.few) else (0.0,)
                for scale in scales:
                    model, _, sigmas, cfg = apply_student(orchard.runs.model, path, 0, scale or (GUIDANCE if method in SCALED else 0.0))
                    drawn = runs.using(model, cfg).draw(SAMPLERS[read_student(path)[0].sampler], sigmas)
                    row = {"model": method, "steps": few, "scale": scale or GUIDANCE, "evaluations": (1 + (cfg != 1)) * drawn.calls}
                    rows.append(reader.row(row, drawn.latents, seen))
    notes = (
        "AA as in `orchard`. Evaluations are those of one picture, with the second one of guidance. Students learned guidance at scale "
        f"{GUIDANCE:g}; vanilla, cfg_aware and guidance_embedded are drawn at several scales at {max(args.few)} steps. {args.train_steps} "
        "training steps each. The best student is chosen on the pictures that it is then judged on."
    )
    return common.result("few_step", _command(args), rows, _checks(wanted, seen, args), notes=notes)


def _command(args: argparse.Namespace) -> str:
    """Return the command of this run, with the options that are not the default."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["python -m rapiddraw bench few-step"]
    trained = ["train_steps"] if set(args.methods) - {SHIPPED} else []
    for name in ("count", "few", "methods", "teacher_steps", *trained):
        value = getattr(args, name)
        if value != parser.get_default(name):
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return " ".join(words)


class _Reader:
    """What the judge reads in pictures of one split."""

    def __init__(self, orchard: Any, split: str, count: int) -> None:
        from ..core.metrics.orchard import render_batch
        from ..core.scoring.judge import judge_pictures

        self.orchard, self.split = orchard, split
        self.real = judge_pictures(orchard.judge, render_batch(orchard.scenes, 128))[1] if _enough(count) else None

    def row(self, row: dict[str, Any], latents: Any, kept: dict[tuple[str, int, float], Any]) -> dict[str, Any]:
        """Return `row` with what is read, and keep (AA by picture, FID-A) of the split seen or, under `unseen NAME`, unseen."""
        from ..core.metrics.bootstrap import bootstrap, mean
        from ..core.metrics.orchard import AA_ATTRIBUTES, accuracy_by_picture, to_pictures
        from ..core.scoring.judge import frechet_distance, judge_pictures

        pictures = to_pictures(self.orchard.runs.host.vae.decode(self.orchard.vae, latents))
        predicted, features = judge_pictures(self.orchard.judge, pictures)
        accuracy = accuracy_by_picture(predicted, self.orchard.scenes, AA_ATTRIBUTES)
        estimate, distance, interval = mean(accuracy), None, None
        if self.real is not None:
            real = self.real
            distance = bootstrap(lambda chosen: float(frechet_distance(features[chosen], real)), len(features), FID_RESAMPLES)
            interval = [distance.low, distance.high]
        name = row["model"] if self.split == "seen" else f"unseen {row['model']}"
        kept[name, row["steps"], row["scale"]] = (accuracy, features)
        cells = {"AA": round(estimate.value, 3), "AA interval": [estimate.low, estimate.high]}
        found = {} if distance is None else {"FID-A": round(distance.value, 2), "FID-A interval": interval}
        return {"split": self.split, **row, "pictures": len(accuracy), **cells, **found}


def _checks(wanted: dict[str, Expectation], seen: dict[tuple[str, int, float], Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    import numpy as np

    from ..core.metrics.bootstrap import difference

    def best(few: int, split: str = "") -> Any:
        found = [(key, value[0]) for key, value in seen.items() if key[1] == few and key[0] in {f"{split}{name}" for name in args.methods}]
        return max(found, key=lambda one: float(one[1].mean()), default=None)

    def teacher(steps: int, split: str = "") -> Any:
        return seen.get((f"{split}teacher, ddim", steps, GUIDANCE), (None,))[0]

    checks = []
    for key, few, steps, split in (("four", 4, 50, ""), ("one", 1, 4, ""), ("unseen", 4, 50, "unseen ")):
        if (found := best(few, split)) is not None and teacher(steps, split) is not None:
            checks.append(wanted[key].judge(difference(found[1], teacher(steps, split)), f"{wanted[key].claim} ({found[0][0]})"))
    most = max(args.few)
    strong = [scale for scale in SCALES if scale >= 3]
    means = {name: np.mean([seen[name, most, scale][0] for scale in strong], axis=0) for name in SCALED if (name, most, strong[0]) in seen}
    for key, one, other in (("aware", "cfg_aware", "vanilla"), ("told", "guidance_embedded", "cfg_aware")):
        if one in means and other in means:
            checks.append(wanted[key].judge(difference(means[one], means[other])))
    if "fid" in wanted and (found := best(4)) is not None and teacher(50) is not None:
        checks.append(wanted["fid"].judge(_fid_ratio(seen[found[0]][1], seen["teacher, ddim", 50, GUIDANCE][1], args.count)))
    return checks


def _fid_ratio(features: Any, others: Any, count: int) -> Any:
    """Return FID-A of a student's features over that of the teacher's, both against renders of the same scenes."""
    from ..core.metrics.bootstrap import bootstrap
    from ..core.metrics.orchard import evaluation_scenes, render_batch
    from ..core.scoring.judge import frechet_distance, judge_pictures
    from .shipped import shipped_judge

    real = judge_pictures(shipped_judge(), render_batch([scene for _, scene in evaluation_scenes("seen", count, 7)], 128))[1]
    ratio = lambda chosen: float(frechet_distance(features[chosen], real) / frechet_distance(others[chosen], real))  # noqa: E731
    return bootstrap(ratio, len(features), FID_RESAMPLES)


def _enough(count: int) -> bool:
    return count >= 1000


def plot(outcome: dict[str, Any], path: Path) -> None:
    """Draw attribute accuracy over evaluations, and over the guidance scale."""
    from .plots import Panel, line_plots

    rows = [row for row in outcome["rows"] if row["split"] == "seen"]
    names = list(dict.fromkeys(row["model"] for row in rows))
    steps = {n: sorted((r["evaluations"], r["AA"]) for r in rows if r["model"] == n and r["scale"] == GUIDANCE) for n in names}
    scales = {n: [(r["scale"], r["AA"]) for r in rows if r["model"] == n and r["scale"] in SCALES] for n in SCALED}
    panels = [Panel("evaluations", "attribute accuracy", "log", "linear", {n: line for n, line in steps.items() if line})]
    lines = {n: line for n, line in scales.items() if len(line) > 1}
    line_plots(path, [*panels, Panel("guidance scale", "attribute accuracy", "linear", "linear", lines)] if lines else panels)
