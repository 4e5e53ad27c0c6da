"""Loss of a low-rank student against its teacher (ELR-Diffusion, section 2.2.2), shared by the recipe and the node.

    L = noise * w(t) ||f_teacher - f_student||^2 + features * mean_i MSE(h_teacher_i, h_student_i) / Var(h_teacher_i)
        + task * w(t) ||target - f_student||^2

`f` is a network's output for the same noisy latents, timestep and prompt. For an eps model it is the noise, which is eq. 3 itself; for
other models it is v or x0, because the student predicts what its teacher predicts. No guidance is applied. `h_i` are the feature maps at
the end of each level of encoder and decoder: the paper's introduction mentions multi-scale distillation of feature maps and gives no
formula. In a plain sum the deepest maps, whose values are largest, would count most; so each error is divided by its teacher's variance.
The paper found training without the task loss better; its default here is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..diffusion.weighting import WEIGHTINGS, loss_weight, output_slope
from ..errors import InputError

Denoise = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
"""(x (B, C, h, w) in sigma space, sigma (B,), conditioning) -> denoised."""
MAX_FACTOR = 1000.0


@dataclass(frozen=True)
class Terms:
    """Factors of the parts of the loss (0 to 1000), and the `weighting` over noise levels (`none` or `min_snr`)."""

    noise: float = 1.0
    features: float = 0.0
    task: float = 0.0
    weighting: str = "none"

    def check(self) -> None:
        """Raise :class:`InputError` for a factor out of range, an unknown weighting, and three factors of 0."""
        for name in ("noise", "features", "task"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= MAX_FACTOR):
                raise InputError(f"{name}={value!r}: expected a factor from 0 to {MAX_FACTOR:g}")
        if self.noise == self.features == self.task == 0:
            raise InputError("noise, features and task are all 0: there is nothing to learn")
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting={self.weighting!r}: expected {' or '.join(WEIGHTINGS)}")


class Distiller:
    """A student and its teacher. `networks` are the U-Nets behind `teacher` and `student`, in this order."""

    def __init__(self, teacher: Denoise, student: Denoise, networks: tuple[nn.Module, nn.Module], prediction: str, terms: Terms) -> None:
        self.teacher, self.student, self.prediction, self.terms = teacher, student, prediction, terms
        self.taps = (feature_layers(networks[0]), feature_layers(networks[1])) if terms.features else ([], [])
        if len(self.taps[0]) != len(self.taps[1]):
            raise InputError(f"the teacher has {len(self.taps[0])} levels and the student {len(self.taps[1])}: their maps have no partners")

    def loss(self, x: torch.Tensor, sigma: torch.Tensor, conditioning: Any, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the parts whose factor is not 0 and, under "loss", their sum, at noisy latents `x` of the clean `latents` (B, C, h, w)."""
        terms, parts = self.terms, {}
        with recorded(self.taps[1]) as maps:
            denoised = self.student(x, sigma, conditioning)
        # Factor from an error in `denoised` to an error in the network's raw output.
        scale = output_slope(self.prediction, sigma).square() * loss_weight(terms.weighting, self.prediction, sigma)
        if terms.noise or terms.features:
            with torch.no_grad(), recorded(self.taps[0]) as shown:
                wanted = self.teacher(x, sigma, conditioning).clone()
            parts["noise"] = (scale * _error(denoised, wanted)).mean()
            if terms.features:
                parts["features"] = torch.stack([_normalised(a, b.clone()) for a, b in zip(maps, shown, strict=True)]).mean()
        if terms.task:
            parts["task"] = (scale * _error(denoised, latents)).mean()
        factors = {"noise": terms.noise, "features": terms.features, "task": terms.task}
        return {"loss": torch.stack([factors[name] * part for name, part in parts.items()]).sum(), **parts}


def feature_layers(network: nn.Module) -> list[nn.Module]:
    """Return the layers at the end of each level of a U-Net, encoder first: diffusers' `down_blocks` and `up_blocks`, or the same places in
    ComfyUI's `UNetModel`. Raises :class:`InputError` for another network."""
    down, up = getattr(network, "down_blocks", None), getattr(network, "up_blocks", None)
    if down is not None and up is not None:
        return [*down, *up]
    found = []
    for side, change in (("input_blocks", "Downsample"), ("output_blocks", "Upsample")):
        # ComfyUI goes through a block's layers itself and never calls the block, so that its last layer is what can be listened to.
        blocks = [list(block.children()) for block in getattr(network, side, [])]
        found += [layers[-1] for layers in blocks[:-1] if type(layers[-1]).__name__ == change] + [layers[-1] for layers in blocks[-1:]]
    if not found:
        raise InputError(f"{type(network).__name__} is no U-Net with levels, so it has no feature maps to distil; set features to 0")
    return found


def is_unet(network: nn.Module) -> bool:
    """Return whether `network` has the levels of a U-Net, diffusers' or ComfyUI's."""
    try:
        return bool(feature_layers(network))
    except InputError:
        return False


@contextmanager
def recorded(layers: list[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Record the first output of each of `layers`, in the order in which they run, inside the `with` block."""
    seen: list[torch.Tensor] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(note).remove)
        yield seen


def _error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of each picture, (B,)."""
    return (a.float() - b.float()).square().flatten(1).mean(1)


def _normalised(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    teacher = teacher.float()
    return _error(student, teacher).mean() / teacher.var().clamp(min=1e-8)
