"""Factorization of a MODEL of either host with a report, and saving it with or without its factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundles.format import read_info
from ..errors import BundleError, InputError
from ..host import current
from ..lowrank.factorize import factorize, merge_back
from ..lowrank.latency import RULES, layer_inputs, multiply_adds, slower_when_counted, slower_when_measured, step_seconds
from ..lowrank.layers import has_factors
from ..lowrank.plan import LayerPlan
from ..lowrank.roles import DEFAULT_TARGETS
from ..lowrank.savings import Report, network_size
from ..paths import made_bundle_path


def factorize_model(
    model: Any,
    mode: str = "param_ratio",
    value: float = 0.61,
    targets: Sequence[str] = DEFAULT_TARGETS,
    split: str = "paper",
    latency: str = "off",
    latent: Mapping[str, Any] | None = None,
    positive: Any = None,
) -> tuple[Any, Report]:
    """Return (a low-rank MODEL, a report). `model` is not changed; patches on it, such as LoRAs, are merged in first.

    `mode`, `value`, `targets` and `split`: see :func:`~.factorize.factorize`. `latency` keeps layers dense that would not become faster:
    `count` judges by multiply-adds, `measure` by time, at the size of `latent` (a LATENT) on the device that computes. With a `latent` the
    report also has multiply-adds and the time of a step before and after. `positive` (a CONDITIONING) is the prompt of these steps, which
    only a U-Net can do without. Raises :class:`InputError`.
    """
    if latency not in RULES:
        raise InputError(f"latency={latency!r}: expected {', '.join(RULES)}")
    if latency == "measure" and latent is None:
        raise InputError("latency=measure needs to know the size of the pictures: link a latent, for example Empty Latent Image")
    host = current()
    if latent is not None:
        host.surgery.check_evaluation(model, positive)
    network = host.speed.network_of("model", model)
    before, step, inputs = network_size(network), None, {}
    if latent is not None:
        once = host.surgery.evaluate(model, latent, positive)
        inputs = layer_inputs(network, once)
        device = next(iter(inputs.values())).device
        step = step_seconds(once, device)
        macs = multiply_adds(network, inputs)
    keep = {"off": None, "count": slower_when_counted(inputs), "measure": slower_when_measured(inputs)}[latency]
    plans: list[LayerPlan] = []
    low = host.surgery.rebuild(model, lambda copy: plans.extend(factorize(copy, mode, value, targets, split, keep)))
    if latent is None or step is None:
        return low, Report(tuple(plans), *_pairs(before, network_size(host.speed.network_of("model", low))))
    once = host.surgery.evaluate(low, latent, positive)
    made = multiply_adds(host.speed.network_of("model", low), layer_inputs(host.speed.network_of("model", low), once))
    steps = (1000 * step, 1000 * step_seconds(once, device))
    return low, Report(tuple(plans), *_pairs(before, network_size(host.speed.network_of("model", low))), (macs, made), steps)


def save_model(model: Any, filename: str, dense: bool) -> Path:
    """Write a MODEL's U-Net as a bundle `filename` where nodes write bundles; `dense` merges its factors first. Returns the path.

    Raises :class:`InputError` for a name that leaves that folder, :class:`BundleError` where it would replace anything but a U-Net.
    """
    path, host = unet_path(filename), current()
    if dense and has_factors(host.speed.network_of("model", model)):
        model = host.surgery.rebuild(model, merge_back)
    return host.model.save(model, path, {"recipe": "merge" if dense else "svd"})


def unet_path(filename: str) -> Path:
    """Return the path where a node writes the U-Net `filename`. Raises :class:`InputError` for a name that leaves the folder nodes write
    bundles to, :class:`BundleError` where anything but a U-Net would be replaced."""
    path = made_bundle_path(filename)
    if path.exists() and read_info(path).kind != "unet":
        raise BundleError(f"{path.name} is a bundle of another kind; give the U-Net another name")
    return path


def _pairs(before: tuple[int, int], after: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    return (before[0], after[0]), (before[1], after[1])
