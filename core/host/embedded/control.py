"""CONTROL_NET of the embedded host: a control adapter with its hint, under the methods that ComfyUI's ControlBase has."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...bundles.format import BundleInfo
from ...control.adapter import ControlAdapter
from ...control.bundle import build_control, load_control
from ...control.decay import depth_decay
from ...control.hints import fit_hint, hint_batch, place_hint
from ...diffusion.time_decoupled import repeat_rows
from ...errors import InputError
from ..fit import check_control_fits, name_of
from . import process
from .model import BaseModel

Residuals = dict[str, list[Tensor]]
_SHAPES = ("in_channels", "block_out_channels", "layers_per_block", "down_block_types", "cross_attention_dim")


class Control:
    """The CONTROL_NET socket. `copy()` before changing anything: outputs of nodes are shared.

    `conditions` are the names of the adapter's conditions; a hint of a single picture goes to `default`.
    """

    strength = 1.0
    timestep_percent_range = (0.0, 1.0)
    cond_hint_original: Tensor | None = None
    previous_controlnet: Control | None = None
    decays = False  # whether its residuals decay towards the shallow layers, as in guess mode

    def __init__(self, adapter: ControlAdapter, info: BundleInfo, default: str) -> None:
        self.adapter, self.info, self.default = adapter, info, default
        self.conditions = adapter.conditions

    def copy(self) -> Control:
        """Return a copy with the same adapter. What is set on the copy stays on the copy."""
        return copy.copy(self)

    def set_cond_hint(self, cond_hint: Tensor, strength: float = 1.0, timestep_percent_range: Any = (0.0, 1.0), **_: Any) -> Control:
        """Set pictures (B, 3, H, W) of the default condition, or (B, 3 n, H, W) of all, and the parts (0..1) of the sampling."""
        self.cond_hint_original = place_hint(cond_hint, self.conditions, self.default)
        self.strength, self.timestep_percent_range = float(strength), tuple(timestep_percent_range)
        return self

    def set_previous_controlnet(self, controlnet: Control | None) -> Control:
        """Set the ControlNet whose residuals are added to this one's."""
        self.previous_controlnet = controlnet
        return self

    def of_rows(self, rows: Tensor) -> Control:
        """Return a copy for the samples `rows` of a batch."""
        made = self.copy()
        if made.cond_hint_original is not None:
            made.cond_hint_original = repeat_rows(made.cond_hint_original, rows)
        made.previous_controlnet = made.previous_controlnet.of_rows(rows) if made.previous_controlnet else None
        return made

    @torch.no_grad()
    def get_control(self, model: BaseModel, x: Tensor, sigma: Tensor, calls: int, given: dict[str, Any]) -> Residuals | None:
        """Return the residuals for the U-Net of `model` at noisy states `x` and noise levels `sigma` (B,), or None outside the range.

        `x` holds `calls` copies of a batch in a row. `given` are the arguments of :meth:`BaseModel.apply_model`."""
        previous = self.previous_controlnet.get_control(model, x, sigma, calls, given) if self.previous_controlnet else None
        first, last = (model.model_sampling.percent_to_sigma(part) for part in self.timestep_percent_range)
        if self.cond_hint_original is None or float(sigma[0]) > first or float(sigma[0]) < last:
            return previous
        factor = 2 ** len(self.info.config["stem"])
        hint = fit_hint(self.cond_hint_original, x.shape[2] * factor, x.shape[3] * factor).to(x)
        network_input, timestep = model.model_sampling.calculate_input(sigma, x), model.model_sampling.timestep(sigma)
        hints = hint_batch(hint, len(x), calls)
        skips, middle = self.adapter(network_input, timestep, given["c_crossattn"], hints, model.added_conditions(given.get("y")))
        if self.decays:
            skips = [skip * factor for skip, factor in zip(skips, depth_decay(len(skips)), strict=True)]
        own = {"output": [self.strength * skip for skip in skips], "middle": [self.strength * middle]}
        if previous is None:
            return own
        return {key: [one + other for one, other in zip(previous[key], own[key], strict=True)] for key in own}


def load(path: Path, default: str) -> Control:
    """See :meth:`ControlTopic.load`."""
    bundle = load_control(path)
    adapter = build_control(bundle).to(process.device())
    if default not in adapter.conditions:
        raise InputError(f"condition {default!r}: this adapter's conditions are {', '.join(adapter.conditions)}")
    return Control(adapter, bundle.info, default)


def in_guess_mode(conditioning: Any) -> Any:
    """See :meth:`ControlTopic.in_guess_mode`."""
    return [
        [tokens, details if details.get("control") is None else {**details, "control": _decaying(details["control"])}]
        for tokens, details in conditioning
    ]


def _decaying(control: Control) -> Control:
    made = control.copy()
    made.decays = True
    made.previous_controlnet = _decaying(made.previous_controlnet) if made.previous_controlnet else None
    return made


def checked_control(model: BaseModel, control: Any) -> Any:
    """Return `control` of a conditioning's entry, or None. Raises :class:`InputError` where it, or a previous one, does not fit `model`."""
    link = control
    while link is not None:
        if not isinstance(link, Control):
            raise InputError("the conditioning carries a ControlNet that this headless host cannot run; run the graph in ComfyUI")
        check_control_fits(name_of(link.info), dict(link.adapter.encoder.config), dict(model.diffusion_model.config), _SHAPES)
        link = link.previous_controlnet
    return control
