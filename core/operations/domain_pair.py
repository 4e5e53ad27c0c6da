"""Training of two LoRAs of one base: one for the noise levels above a switch, one for those below (PanGu-Draw, section 4.1).

PanGu-Draw trains a structure model on the noisy timesteps and a texture model on the others. Here both are LoRAs of one base, trained in
one run: each step gives the same pictures to both, at noise levels of their own. Each LoRA has its own optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ..diffusion.time_decoupled import T_STRUCT, is_structure
from ..errors import InputError
from ..host.denoiser import Denoiser
from ..lowrank.hooked import Switched
from ..lowrank.lora import Lora, attach_lora
from ..lowrank.lora_file import save_lora
from ..train.recipe import Losses
from .domain import DomainTuning, indices
from .domain_choices import LAYERS, PAIR, STRUCTURE
from .domain_data import Pictures, Prepared
from .domain_previews import Previews

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass
class PairTuning(DomainTuning):
    """The recipe behind Train Time-Decoupled Pair. A step costs two of :class:`DomainTuning`: one evaluation for each LoRA."""

    name: ClassVar[str] = "domain_pair"
    sets: ClassVar[int] = len(PAIR)
    takes_text: ClassVar[bool] = False
    advice: ClassVar[str] = "choose a t_struct inside that range"

    t_struct: int = T_STRUCT  # timestep of the switch, of 1000: the structure LoRA is trained from here upwards

    def given(self, model: Any, denoiser: Denoiser, prepared: Prepared, pictures: Pictures, previews: Previews) -> None:
        self.evaluate_plain, self.switch = denoiser.denoise, Switched()
        switched = replace(denoiser, denoise=self._switched)
        previews.denoiser = switched
        super().given(model, switched, prepared, pictures, previews)

    def attach(self, network: nn.Module, device: torch.device) -> dict[str, Lora]:
        return {name: attach_lora(network, LAYERS[self.layers], self.rank, self.alpha, device) for name in PAIR}

    def optimizers(self) -> dict[str, Optimizer]:
        return {name: self.adamw(list(lora.parameters())) for name, lora in self.learned.items()}

    def phases(self) -> list[tuple[list[str], Callable[[Any], Losses]]]:
        return [([name], partial(self._loss_of, name)) for name in PAIR]

    def ranges(self, t_range: tuple[int, int], count: int) -> dict[str, tuple[int, int]]:
        both = ((self.t_struct, self.t_max), (self.t_min, self.t_struct))
        return {name: indices(timesteps, t_range, count) for name, timesteps in zip(PAIR, both, strict=True)}

    def write(self, out: Path, told: Mapping[str, Any]) -> list[Path]:
        written = []
        for name in PAIR:
            path = part_path(out, name)
            written.append(save_lora(path, self.keyed(self.learned[name]), {**told, "part": name, "t_struct": self.t_struct}))
        return written

    def switches(self) -> Iterable[Switched]:
        return [self.switch]

    def described(self) -> str:
        first = self.learned[STRUCTURE]
        numbers = sum(one.numel() for one in first.parameters())
        return (
            f"two LoRAs of rank {self.rank} on {len(first.names)} layers, {numbers:,} parameters each: {PAIR[0]} from timestep "
            f"{self.t_struct} upwards, {PAIR[1]} below"
        )

    def check(self) -> None:
        super().check()
        if not self.t_min < self.t_struct < self.t_max:
            raise InputError(f"t_struct={self.t_struct}: expected a timestep between {self.t_min} and {self.t_max}, such as {T_STRUCT}")

    def _loss_of(self, name: str, batch: dict[str, Any]) -> Losses:
        loss = self.error_in(batch, self.measured[name])
        return {"loss": loss, name: loss}

    def _switched(self, x: torch.Tensor, sigma: torch.Tensor, given: Any) -> torch.Tensor:
        """Evaluate the network with the LoRA of the noise levels `sigma` (B,), all of which lie on one side of the switch.

        The strengths stay until the next evaluation, because gradient checkpointing evaluates once more in the backward pass."""
        switch = float(self.denoiser.sigmas[self.measured[STRUCTURE][0]])
        wanted = PAIR[0] if bool(is_structure(sigma, switch).all()) else PAIR[1]
        for name, lora in self.learned.items():
            lora.strength = self.switch.strength * (name == wanted)
        return self.evaluate_plain(x, sigma, given)


def part_path(out: Path, name: str) -> Path:
    """Return the file of the LoRA `name` of a pair, of which `out` is the structure LoRA's."""
    return out.with_name(f"{out.name.removesuffix(out.suffix).removesuffix(f'-{STRUCTURE}')}-{name}{out.suffix}")
