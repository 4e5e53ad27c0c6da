"""Checkpoints: the state of a run after some step, one `.safetensors` file each.

A state is any nesting of dicts, lists, numbers, text and tensors, such as torch's `state_dict` of a module or an optimizer. Tensors become
safetensors entries; the rest is JSON in the metadata, with a reference in the place of each tensor. No pickle is written or read.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import TrainingError
from ..files import replacing

if TYPE_CHECKING:
    from .recipe import Recipe

logger = logging.getLogger("rapiddraw")
_KEY = "rapiddraw_checkpoint"
_VERSION = 1
_GIVEN = "the model, the pictures or the texts are others"
"""What a setting `fingerprint`, a hash that a node takes of what it was given, tells where it differs."""


def save_checkpoint(run_dir: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `state` after `step` finished steps, whole or not at all, and remove all but the newest `keep` checkpoints."""
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    meta = json.dumps({"version": _VERSION, "step": step, "state": _flatten(state, tensors)})
    path = run_dir / f"checkpoint-{step:08d}.safetensors"
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: meta})
    for old in checkpoints(run_dir)[: -max(1, keep)]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> tuple[int, dict[str, Any]]:
    """Return (the finished steps, the state) of a checkpoint, its tensors on the CPU. Raises :class:`TrainingError` that names a damaged
    file."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})[_KEY])
        if meta["version"] != _VERSION:
            raise TrainingError(f"{path} was written by another version of RapidDraw; start a new run with resume off")
        return int(meta["step"]), _unflatten(meta["state"], load_file(path))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is not a usable checkpoint ({error}); delete it to resume from the one before") from error


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoints in `run_dir`, oldest first."""
    return sorted(run_dir.glob("checkpoint-*.safetensors"))


def _flatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors):06d}"
        # A clone: safetensors refuses tensors that share memory, as tied weights do.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_flatten(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_flatten(item, tensors) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TrainingError(f"a checkpoint cannot hold a {type(value).__name__}: only tensors, numbers, text, and dicts and lists of them")


def _unflatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unflatten(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_unflatten(item, tensors) for item in value["tuple"])
    return {key: _unflatten(item, tensors) for key, item in value["items"]}


def check_resumable(run_dir: Path, recipe: Recipe, steps: int, unknown: frozenset[str] = frozenset()) -> None:
    """Raise :class:`TrainingError`, as the loop would, where a run of `recipe` cannot go on from the newest checkpoint in `run_dir`.

    Settings in `unknown` are not compared. Only the file's header is read, so that this can be asked before any work."""
    from safetensors import SafetensorError, safe_open

    found = checkpoints(run_dir)
    if not found:
        return
    try:
        with safe_open(found[-1], "pt") as file:
            meta = json.loads((file.metadata() or {})[_KEY])
        told = dict(meta["state"]["items"])
        state = {key: _unflatten(told[key], {}) for key in ("recipe", "settings")}
        step = int(meta["step"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return  # the loop says what is wrong with the file
    _compare(state, found[-1], recipe, unknown)
    check_step(found[-1], step, steps)


def check_same(state: dict[str, Any], path: Path, recipe: Recipe, steps: int, processes: int) -> None:
    """Raise :class:`TrainingError` where a checkpoint belongs to another recipe or to other settings than `recipe` has now.

    The recipe's volatile settings may differ. Another number of steps or processes only logs a warning.
    """
    _compare(state, path, recipe)
    if state["steps"] != steps or state["processes"] != processes:
        logger.warning(
            "%s: resumed with another number of steps or processes, so that the result differs from that of an uninterrupted run", path.name
        )


def check_step(path: Path, step: int, steps: int) -> None:
    """Raise :class:`TrainingError` where a checkpoint after `step` steps is past the `steps` of a run."""
    if step > steps:
        raise TrainingError(f"{path} is already at step {step}, past the {steps} asked for; ask for more, or start over")


def _compare(state: dict[str, Any], path: Path, recipe: Recipe, unknown: frozenset[str] = frozenset()) -> None:
    if state.get("recipe") != recipe.name:
        raise TrainingError(f"{path} belongs to recipe {state.get('recipe')!r}, not {recipe.name!r}; choose another run folder")
    then, now = state["settings"], json.loads(json.dumps(recipe.settings()))
    differing = [k for k in sorted({*then, *now} - recipe.volatile - unknown) if then.get(k) != now.get(k)]
    if differing:
        listed = ", ".join(_GIVEN if k == "fingerprint" else f"{k} was {then.get(k)!r} and is {now.get(k)!r}" for k in differing)
        raise TrainingError(f"cannot resume from {path}: {listed}. Use the same settings, or start over with resume off")
