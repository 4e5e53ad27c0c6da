"""Students that `bench few-step` compares: each is trained by the recipe `few_step` where its file is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "trajectory": {},
    "progressive": {"method": "progressive"},
    "vanilla": {"method": "progressive", "guidance": 1.0},
    "cfg_aware": {"method": "cfg_aware"},
    "guidance_embedded": {"method": "guidance_embedded"},
    "consistency": {"method": "consistency"},
    "adversarial": {"method": "adversarial"},
}
"""Methods by name, and the recipe's settings that are not the default."""
SHIPPED = "shipped"
"""The name of the students in `weights/`, whatever their methods are."""
SETTINGS: dict[str, Any] = {"rank": 32, "lr": 1e-3, "batch_size": 16, "drawn": 512, "guidance": 4.0}


def find_student(method: str, few: int, folder: Path, steps: int) -> Path | None:
    """Return the file of a student of `few` steps: a shipped one (None where there is none), else as :func:`trained_student` does."""
    from ..core.errors import BundleError
    from ..core.fewstep.find import resolve_student

    if method != SHIPPED:
        return trained_student(method, few, folder, steps)
    try:
        return resolve_student(f"orchard-{few}-step{'s' * (few > 1)}.safetensors")
    except BundleError:
        return None


def trained_student(method: str, few: int, folder: Path, steps: int) -> Path:
    """Return the file of the student, trained for `steps` steps on the shipped model unless it is in `folder`."""
    from ..core.train import make_recipe
    from ..core.train.loop import train
    from .shipped import shipped

    out = folder / f"{method.replace('_', '-')}-{few}-steps.safetensors"
    if out.is_file():
        return out
    bundles = {"teacher": "unet", "text": "text", "graph": "kg"}
    named = {key: str(shipped(kind, kind)) for key, kind in bundles.items()}
    settings = {**SETTINGS, "few": few, "teacher_steps": few * 4 if few > 2 else 16, **METHODS[method], **named}
    return train(make_recipe("few_step", settings), out, steps, run_dir=folder / f"{out.stem}-run").files[0]
