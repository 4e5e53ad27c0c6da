"""Training of a control adapter for a MODEL of either host: edges, sketches, segments to follow (ELR-Diffusion, section 2.4).

The adapter is a copy of the U-Net's encoder, dense, in low rank, or frozen with Kronecker updates (eq. 9). It reads condition maps, which
are drawn from the pictures or lie in the folder. The model is frozen. Maps and texts are left out as the recipe `control` leaves them out.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..bundles.format import Bundle
from ..control.adapter import DECODER, ControlAdapter, adapter_config, copy_of_weights
from ..control.bundle import save_control
from ..control.hints import CHANNELS, map_hint
from ..control.layers import parameters_of
from ..errors import InputError
from ..host.denoiser import Denoiser
from ..lowrank.factorize import factored_names, factorize
from ..lowrank.hooked import Hooked, Switched
from ..lowrank.plan import planned
from ..lowrank.roles import DEFAULT_TARGETS
from ..train.recipes.control import EXTRACTORS, freeze_with_updates, kept_conditions, with_updates_merged
from .distill import BYTES_A_WEIGHT
from .domain import DomainTuning
from .domain_choices import CONTROL_FORMATS, CONTROL_MAPS, DRAWN
from .domain_data import Pictures, Prepared
from .domain_previews import Previews

FEATURES = (16, 24, 32)
KEEP_ALL, DROP_ALL, DROP_EACH = 0.1, 0.1, 0.5
"""Shares of pictures that are shown all their maps and none, and the chance that one is left out in the others (Uni-ControlNet)."""
CACHED = 256
"""Pictures whose maps are kept in memory."""


@dataclass
class ControlTuning(DomainTuning):
    """The recipe behind Train Control Adapter. `rank` is that of Kronecker updates; `alpha` and `layers` are not used."""

    name: ClassVar[str] = "domain_control"
    called: ClassVar[str] = "control adapter"
    takes_text: ClassVar[bool] = False
    place: ClassVar[str] = "rapiddraw of the output folder, for Load Control Adapter"

    caption_dropout: float = 0.5
    rank: int = 4
    conditions: tuple[str, ...] = ("edges", "sketch")
    maps: str = DRAWN  # drawn from the pictures, or those of the folder
    format: str = "lowrank"
    ratio: float = 0.33  # format "lowrank": share of the copy's parameters that is left

    def of(self, unet: Bundle) -> None:
        """Take the base's U-Net (see :meth:`ModelTopic.export`). Raises :class:`InputError` for one that no adapter can be a copy of."""
        if unet.info.schedule is None or unet.info.latent is None:
            raise InputError("a control adapter needs a U-Net that predicts eps or v, such as SD 1.5 and SDXL; this one is of another kind")
        if unet.info.extra:
            raise InputError("this U-Net is slimmed, and a control adapter copies whole encoders only; train it for the U-Net as it was")
        config = adapter_config(unet.info.config, unet.info.latent.factor, self.conditions, FEATURES)
        if self.format == "lowrank":
            if factored_names(unet.tensors):
                raise InputError("this U-Net is low-rank already, and format=lowrank factors a dense one: choose dense or kronecker")
            with torch.device("meta"):
                encoder = ControlAdapter(**config).encoder
            for _ in planned(encoder, "param_ratio", self.ratio, DEFAULT_TARGETS, values=False):  # raises where the ratio is out of reach
                pass
        kept = {key: tensor for key, tensor in unet.tensors.items() if not key.startswith(DECODER)}
        self.unet = Bundle(unet.info, kept)

    def given(self, model: Any, denoiser: Denoiser, prepared: Prepared, pictures: Pictures, previews: Previews) -> None:
        self.evaluate_plain, self.switch = denoiser.denoise, Switched()
        controlled = replace(denoiser, denoise=self._controlled)
        shown = [*pictures.parts["validation"], *pictures.parts["train"]]
        previews.denoiser = controlled
        self.stride = pictures.sizes[0][0] // prepared.latents[0][0].shape[-2]
        self.maps_of = lru_cache(CACHED)(self._maps)
        every = [True] * len(self.conditions)
        previews.beside = lambda number, shape, _: {"hint": self._hint((shown[number % len(shown)], 0), every, shape)[None]}
        super().given(model, controlled, prepared, pictures, previews)

    def attach(self, network: nn.Module, device: torch.device) -> Mapping[str, Hooked]:
        latent = self.unet.info.latent
        assert latent is not None  # noqa: S101 - :meth:`of` has seen to it
        self.adapter, self.config = copy_of_weights(self.unet.info.config, self.unet.tensors, latent.factor, self.conditions, FEATURES)
        if self.format == "lowrank":
            factorize(self.adapter.encoder, "param_ratio", self.ratio, split="symmetric")
        elif self.format == "kronecker":
            freeze_with_updates(self.adapter, self.rank)
        self.adapter.to(device)
        return {}

    def modules(self) -> dict[str, nn.Module]:
        return {"control": self.adapter}

    def conditions_of(
        self, texts: Sequence[str], shown: Sequence[tuple[int, int]], shape: tuple[int, ...], rng: random.Random | None = None
    ) -> Any:
        every = [True] * len(self.conditions)
        kept = [every if rng is None else kept_conditions(len(every), KEEP_ALL, DROP_ALL, DROP_EACH, rng) for _ in shown]
        hints = torch.stack([self._hint(one, keep, shape) for one, keep in zip(shown, kept, strict=True)])
        return {**super().conditions_of(texts, shown, shape, rng), "hint": hints}

    def check_pictures(self, pictures: Pictures) -> None:
        for kind in self.conditions:
            for i in range(len(pictures) if self.maps != DRAWN else 0):
                pictures.images.map(i, kind)

    def write(self, out: Path, told: Mapping[str, Any]) -> list[Path]:
        merged = with_updates_merged(self.adapter) if self.format == "kronecker" else self.adapter
        return [save_control(out, merged, self.config, self.unet.info, told)]

    def switches(self) -> Iterable[Switched]:
        return [self.switch]

    def described(self) -> str:
        trained, every = parameters_of(self.adapter)
        return f"{self.called} ({self.format}) for {', '.join(self.conditions)}: {trained:,} of {every:,} parameters are trained"

    def room(self, network: nn.Module) -> int:
        copied = sum(tensor.numel() for tensor in self.unet.tensors.values())
        share = {"dense": 1.0, "lowrank": self.ratio, "kronecker": 0.3}[self.format]
        return round(BYTES_A_WEIGHT * share * copied)

    def check(self) -> None:
        super().check()
        if self.maps not in CONTROL_MAPS or self.format not in CONTROL_FORMATS:
            raise InputError(f"maps={self.maps!r}, format={self.format!r}: expected {CONTROL_MAPS}, {CONTROL_FORMATS}")
        if not 0 < self.ratio <= 1:
            raise InputError(f"ratio={self.ratio!r}: expected a share above 0 and at most 1")
        undrawn = [kind for kind in self.conditions if kind not in EXTRACTORS]
        if not self.conditions or (undrawn and self.maps == DRAWN):
            raise InputError(
                f"conditions={', '.join(self.conditions) or '(none)'}: edges and sketches can be drawn from pictures; for "
                f"{', '.join(undrawn) or 'others'} put maps into maps/ of the folder and choose them in maps"
            )

    def _controlled(self, x: torch.Tensor, sigma: torch.Tensor, given: Any) -> torch.Tensor:
        """Evaluate the base under the adapter, where the condition has a hint."""
        plain = {key: value for key, value in given.items() if key != "hint"}
        if self.switch.strength and "hint" in given:
            network_input, timestep, tokens, told = self.denoiser.inputs(x, sigma, plain)
            added = None if told is None else {name: value.float() for name, value in told.items()}
            skips, middle = self.adapter(network_input.float(), timestep, tokens.float(), given["hint"].to(x.device), added)
            plain["control"] = {"output": skips, "middle": [middle]}
        return self.evaluate_plain(x, sigma, plain)

    def _hint(self, shown: tuple[int, int], keep: Sequence[bool], shape: tuple[int, ...]) -> torch.Tensor:
        """Return the maps (3 n, H, W) of a picture, or of its mirror image, for latents of `shape`; zeros for those that are left out."""
        number, mirrored = shown
        found = self.maps_of(number, shape[-2] * self.stride, shape[-1] * self.stride)
        kept = found * torch.tensor(keep).repeat_interleave(CHANNELS)[:, None, None]
        return kept.flip(-1) if mirrored else kept

    def _maps(self, number: int, height: int, width: int) -> torch.Tensor:
        images = self.pictures.images
        if self.maps != DRAWN:
            drawn = [map_hint(kind, torch.from_numpy(images.fitted_map(number, kind, height, width).copy())) for kind in self.conditions]
        else:
            picture = images.fitted(number, height, width)[None] / 2 + 0.5
            drawn = [EXTRACTORS[kind](picture).expand(CHANNELS, -1, -1) for kind in self.conditions]
        return torch.cat(list(drawn))
