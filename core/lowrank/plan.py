"""Plans of a factorization: which layers of a network, to which rank (ELR-Diffusion, section 2.2 and Table 1: 790M of 1290M parameters,
0.61).

A plan is made from the weights alone and changes nothing; :mod:`.factorize` carries it out. Layers are found by their roles
(:mod:`.roles`). Quantized layers stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from ..progress import Progress
from .layers import FACTORED, can_factor, layer_size, quantization
from .roles import DEFAULT_TARGETS, TARGETS, role_of
from .svd import MODES, Spectrum, break_even, rank_for_ratio

KeepDense = Callable[[str, Any, int], str | None]
"""(name, dense layer, rank) -> the reason to keep the layer dense, or None."""


@dataclass(frozen=True)
class LayerPlan:
    """One layer: its `out` x `inner` weight, its future `rank` (None: it stays dense) and the reason. `error` is ||W - A B|| / ||W||."""

    name: str
    kind: str
    out: int
    inner: int
    rank: int | None
    error: float
    reason: str

    @property
    def dense_parameters(self) -> int:
        """Number of parameters of the dense weight, without bias."""
        return self.out * self.inner

    @property
    def parameters(self) -> int:
        """Number of parameters of the weight or its factors, without bias."""
        return self.dense_parameters if self.rank is None else self.rank * (self.out + self.inner)


def targeted(network: Any, targets: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, role, dense layer) of every layer of `network` that `targets` select and that is neither factored nor quantized."""
    for target in targets:
        if target not in TARGETS:
            raise InputError(f"target {target!r}: expected some of {', '.join(TARGETS)}")
    factored = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, FACTORED))
    for name, module in network.named_modules():
        if can_factor(module) and not (factored and name.startswith(factored)):
            role = role_of(name, targets)
            if role:
                yield name, role, module


def quantized(network: Any, targets: Sequence[str]) -> Iterator[LayerPlan]:
    """Yield the plan of every layer that `targets` select and that is quantized: it stays as it is."""
    for name, module in network.named_modules():
        kind, role = quantization(module), role_of(name, targets)
        if kind is not None and role is not None:
            yield LayerPlan(name, role, *layer_size(module), None, 0.0, f"quantized ({kind}), left alone")


def make_plan(
    network: Any,
    mode: str = "param_ratio",
    value: float = 0.61,
    targets: Sequence[str] = DEFAULT_TARGETS,
    keep_dense: KeepDense | None = None,
) -> list[LayerPlan]:
    """Return a :class:`LayerPlan` for every targeted layer of `network`.

    `mode` is the meaning of `value`: `param_ratio`, the share in (0, 1] of the *whole* network's parameters to keep, spread evenly over the
    targeted layers; `energy`, the share in (0, 1] of each weight's squared norm to keep; `rank`, one rank for all. A layer stays dense
    where its factors would not be smaller than its weight, and where `keep_dense` gives a reason. Quantized layers stay as they are.
    Raises :class:`InputError` for values out of range, for a ratio that cannot be reached, and where no layer is targeted.
    """
    return [plan for plan, _ in planned(network, mode, value, targets, keep_dense)]


def planned(
    network: Any, mode: str, value: float, targets: Sequence[str], keep_dense: KeepDense | None = None, values: bool = True
) -> Iterator[tuple[LayerPlan, Spectrum | None]]:
    """Yield the plan of :func:`make_plan` layer by layer, each with the weight's spectrum. A layer may be replaced once it was yielded.

    Without `values` the weights are not read: no spectra, no errors, and no ranks by energy."""
    layers, left = list(targeted(network, targets)), list(quantized(network, targets))
    if not layers and left:
        raise InputError(
            f"all {len(left)} targeted layers are {left[0].reason.partition(',')[0]}: load the model in 16 or 32 bits to factor it"
        )
    if not layers:
        raise InputError(f"no layer of this model is among the targets {', '.join(targets) or '(none)'}: there is nothing to factor")
    _check(mode, value)
    if mode == "energy" and not values:
        raise InputError("mode=energy needs the values of the weights; choose param_ratio or rank")
    share = _share(network, layers, value) if mode == "param_ratio" else 0.0
    with Progress(len(layers), "factoring", "layer") as bar:
        for name, group, layer in layers:
            spectrum = Spectrum.of(layer.weight) if values else None
            out, inner = layer_size(layer)
            rank = int(value) if mode == "rank" else rank_for_ratio(share, out, inner)
            if mode == "energy" and spectrum is not None:
                rank = spectrum.rank_for_energy(value)
            limit = break_even(out, inner)
            plan = LayerPlan(name, group, out, inner, None, 0.0, f"rank {rank} is above the break-even {limit}")
            if rank <= limit:
                reason = keep_dense(name, layer, rank) if keep_dense else None
                plan = replace(plan, reason=reason or f"rank {rank} of {min(out, inner)}")
                if reason is None:
                    plan = replace(plan, rank=rank, error=spectrum.error(rank) if spectrum is not None else 0.0)
            yield plan, spectrum
            bar.update()
    for plan in left:
        yield plan, None


def _check(mode: str, value: float) -> None:
    if mode not in MODES:
        raise InputError(f"mode={mode!r}: expected {', '.join(MODES)}")
    if mode == "rank" and not (math.isfinite(value) and value >= 1 and value == int(value)):
        raise InputError(f"value={value}: a rank is a whole number of at least 1")
    if mode != "rank" and not 0 < value <= 1:
        raise InputError(f"value={value}: a {mode} lies above 0 and is at most 1")


def _share(network: Any, layers: list[tuple[str, str, Any]], ratio: float) -> float:
    """Return the share of its parameters that each targeted layer may keep so that the whole network keeps `ratio` of its own."""
    sizes = [layer_size(layer) for _, _, layer in layers]
    total = sum(parameter.numel() for parameter in network.parameters())
    fixed = total - sum(out * inner for out, inner in sizes)

    def kept(share: float) -> int:
        return fixed + sum(min(out * inner, rank_for_ratio(share, out, inner) * (out + inner)) for out, inner in sizes)

    if kept(0.0) > ratio * total:
        raise InputError(
            f"param_ratio={ratio:g} cannot be reached: with every targeted layer at rank 1 the model keeps {kept(0.0) / total:.3f} of its "
            f"{total:,} parameters. Give at least that, or more targets"
        )
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) <= ratio * total else (low, middle)
    return low
