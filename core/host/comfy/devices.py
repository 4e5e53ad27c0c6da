"""Devices that ComfyUI keeps a model on: a patcher and its clones on more GPUs (0.33 and later, its *MultiGPU* nodes)."""

from __future__ import annotations

from typing import Any

import comfy.samplers

CLONES, OPTIONS, POOL = "multigpu_clones", "multigpu_options", "multigpu_thread_pool"
"""Keys of a run's model options: patcher by device, settings by device, and the threads that ComfyUI starts for them."""


def device_shares(model: Any, extra_args: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a sampler's `extra_args` once for each device that holds the model, each naming its device alone.

    ComfyUI itself would give one device the positive and another the negative prompt of the whole batch. With options that name one device
    it computes a call there, moves the batch to the device and finds the device's ControlNets. A guider that keeps a state between calls
    (several stages) and prompts with hooks, which change the weights for a call, are asked by one thread alone, as without this function.
    """
    options = extra_args.get("model_options") or {}
    clones = options.get(CLONES) or {}
    guider = getattr(model, "inner_model", None)
    if len(clones) < 2 or not _is_plain(guider) or _has_hooks(guider):
        return [extra_args]
    shared = {key: value for key, value in options.items() if key != POOL}
    speeds = options.get(OPTIONS) or {}
    shares = []
    for device, patcher in clones.items():
        one = {CLONES: {device: patcher}, OPTIONS: {device: speeds.get(device, {"relative_speed": 1.0})}}
        shares.append({**extra_args, "model_options": _copy({**shared, **one})})
    return shares


def _is_plain(guider: Any) -> bool:
    stock = comfy.samplers.CFGGuider
    return isinstance(guider, stock) and type(guider).outer_predict_noise is stock.outer_predict_noise


def _has_hooks(guider: Any) -> bool:
    return any(entry.get("hooks") is not None for entries in guider.conds.values() for entry in entries or ())


def _copy(value: Any) -> Any:
    """Return `value` with its dicts and lists copied: ComfyUI moves what lies in them to the device of a call."""
    if isinstance(value, dict):
        return {key: _copy(entry) for key, entry in value.items()}
    return [_copy(entry) for entry in value] if isinstance(value, list) else value
