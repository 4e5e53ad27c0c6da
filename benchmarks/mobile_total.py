"""A picture's cost from prompt to pixels, of the shipped model and of a student on a slimmed U-Net: a part of `bench mobile`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from . import mobile_decoder
from .checks import CHOSEN, PAPER, Basis, Check, Expectation, at_least
from .mobile_slim import NAME
from .stopwatch import turns

if TYPE_CHECKING:
    from pathlib import Path

    from ..core.metrics.orchard import Floats
    from .mobile_lab import Lab

TEACHER_STEPS, GUIDANCE, FEW = 50, 4.0, (4, 1)
PAPER_GAIN = 46.0
"""How many times as fast the slides' whole pipeline became."""
STUDENT: dict[str, Any] = {"rank": 32, "lr": 1e-3, "batch_size": 16, "drawn": 256, "teacher_steps": 16, "guidance": GUIDANCE}


def expectations(count: int, repeats: int) -> dict[str, Expectation]:
    """Return the expectations by key."""
    claim = f"attribute accuracy of {FEW[0]} steps of the small model less {TEACHER_STEPS} of the shipped one"
    wanted = {"accuracy": Expectation(claim, at_least(-0.05), CHOSEN, Basis(count))}
    if repeats:
        claim = f"times as fast as the shipped model in {TEACHER_STEPS} steps, from prompt to picture, in {FEW[-1]} step"
        wanted["faster"] = Expectation(claim, at_least(PAPER_GAIN), PAPER, turns(repeats), "the slides on SnapFusion")
    return wanted


def student(lab: Lab, few: int, steps: int) -> Path:
    """Return the file of a student of the slimmed U-Net, trained for `steps` steps unless it lies in the folder."""
    from ..core.train import make_recipe
    from ..core.train.loop import train
    from .shipped import shipped

    out = lab.made(f"slim-{few}-steps")
    if not out.is_file():
        named = {"teacher": str(lab.made(NAME)), "text": str(shipped("text", "text")), "graph": str(shipped("kg", "kg"))}
        train(make_recipe("few_step", {**STUDENT, "few": few, **named}), out, steps, run_dir=out.with_name(f"{out.stem}-run"))
    return out


def measure(lab: Lab, steps: int) -> tuple[list[dict[str, Any]], list[Check]]:
    """Return (rows, checks): a row for each part of a picture's way, and one for the whole."""
    from ..core.diffusion.samplers import SAMPLERS
    from ..core.metrics.bootstrap import difference, mean, median_ratio
    from ..core.operations.few_step import apply_student

    wanted, host = expectations(lab.count, lab.repeats), lab.parts.host
    decoder_file = mobile_decoder.file_of(mobile_decoder.SHARES[-1])
    missing = [path.name for path in (lab.made(NAME), lab.made(decoder_file)) if not path.is_file()]
    if missing:
        raise InputError(f"the part total needs {', '.join(missing)}, which slim and decoder make: add both to --parts")
    small, decoder = host.model.load(lab.made(NAME)), host.vae.load(lab.made(decoder_file))
    runs, rows, totals, found = _runs(lab), [], {}, {}
    levels = host.sampling.calculate_sigmas(lab.parts.model, "sgm_uniform", TEACHER_STEPS)
    ways = {"the shipped model": (lab.parts.model, levels, GUIDANCE, lab.parts.vae)}
    for few in FEW:
        model, _, sigmas, cfg = apply_student(small, student(lab, few, steps))
        ways[f"student in {few} step{'s' * (few > 1)}, slimmed, pruned"] = (model, sigmas, cfg, decoder)
    for name, (model, sigmas, cfg, vae) in ways.items():
        drawn = runs.using(model, cfg).draw(SAMPLERS["euler"], sigmas)
        found[name] = _accuracy(lab, host.vae.decode(vae, drawn.latents))
        accuracy, evaluations = mean(found[name]), drawn.calls * (1 + (cfg != 1))
        parts, totals[name] = _parts(lab, model, vae, len(sigmas) - 1, cfg)
        rows += [{"model": name, **part} for part in parts]
        rows.append({"model": name, "component": "AA", "evaluations": evaluations, "AA": round(accuracy.value, 3),
                     "AA interval": [accuracy.low, accuracy.high]})  # fmt: skip
    whole, four, *_, last = ways
    checks = [wanted["accuracy"].judge(difference(found[four], found[whole]))]
    if lab.repeats:
        gains = {name: median_ratio(totals[whole], seconds) for name, seconds in totals.items()}
        for row in rows:
            if row["component"] == "total":
                row["times as fast"] = round(gains[row["model"]].value, 2)
        checks.append(wanted["faster"].judge(gains[last]))
    return rows, checks


def _runs(lab: Lab) -> Any:
    from ..core.metrics.sampling_runs import PromptRuns

    return PromptRuns(lab.parts.host, lab.parts.model, lab.parts.clip, lab.held_out[1], GUIDANCE)


def _accuracy(lab: Lab, image: Any) -> Floats:
    from ..core.metrics.orchard import AA_ATTRIBUTES, accuracy_by_picture, evaluation_scenes, to_pictures
    from ..core.scoring.judge import judge_pictures
    from .mobile_lab import SEED
    from .shipped import shipped_judge

    scenes = [scene for _, scene in evaluation_scenes("seen", lab.count, SEED)]
    return accuracy_by_picture(judge_pictures(shipped_judge(), to_pictures(image))[0], scenes, AA_ATTRIBUTES)


def _parts(lab: Lab, model: Any, vae: Any, steps: int, cfg: float) -> tuple[list[dict[str, Any]], list[float]]:
    """Return rows of the parts and of the total, and the milliseconds of each of the pictures that were drawn for them."""
    from ..core.metrics.profile import Settings, profile_pipeline

    totals: list[float] = []
    rows: list[dict[str, Any]] = []
    for _ in range(max(1, lab.repeats)):
        profile = profile_pipeline(model, lab.parts.clip, vae, settings=Settings(steps=steps, cfg=cfg, runs=1, warmup=int(not totals)))
        totals.append(profile.rows[-1].median_ms)
        rows = rows or [
            {
                "component": row.component,
                **({} if row.parameters is None else {"parameters M": round(row.parameters / 1e6, 3)}),
                **({} if row.multiply_adds is None else {"GMAC": round(row.multiply_adds / 1e9, 3)}),
                "milliseconds": [],
            }
            for row in profile.rows
            if not row.inside
        ]
        for cells, row in zip(rows, (row for row in profile.rows if not row.inside), strict=True):
            cells["milliseconds"].append(row.median_ms)
    for cells in rows:
        taken = sorted(cells.pop("milliseconds"))
        cells |= {"ms": round(taken[len(taken) // 2], 2)} if lab.repeats else {}
    return rows, totals
