"""Matrix of nodes and families: a family's parts for a row to work with, and the identities that a row asks for.

A row is a function of a :class:`Case` under `@row(NODE)`, in one of the modules matrix_*.py. It runs the node and raises
:class:`Wrong` where an identity does not hold: for most nodes a setting exists that must leave the picture of ComfyUI's own sampler as it
is. A probe imports these modules after `inside`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.samplers
import families
import torch
from comfy_extras import nodes_custom_sampler
from inside import relative

import nodes

SAME = 1e-4  # relative to the largest value: sums in another order through one or two blocks
STEPS, CFG, SEED = 3, 2.0, 5
ROWS: dict[str, Callable[[Case], None]] = {}


class Wrong(Exception):
    """An identity does not hold."""


def row(name: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Enter a function into `ROWS` under the node's id, without `RapidDraw`, and what of it is asked."""

    def enter(function: Callable[[Case], None]) -> Callable[[Case], None]:
        ROWS[name] = function
        return function

    return enter


def equal(what: str, a: torch.Tensor, b: torch.Tensor, limit: float = SAME) -> None:
    """Raise :class:`Wrong` where `a` differs from `b` by more than `limit` of b's largest value, or in shape."""
    if a.shape != b.shape:
        raise Wrong(f"{what}: {tuple(a.shape)} instead of {tuple(b.shape)}")
    difference = relative(a, b)
    if not difference <= limit:
        raise Wrong(f"{what}: relative difference {difference:.1e}")


def finite(what: str, *tensors: torch.Tensor) -> None:
    """Raise :class:`Wrong` for a value that is not finite."""
    for tensor in tensors:
        if not tensor.isfinite().all():
            raise Wrong(f"{what}: not finite")


class Clip:
    """A text encoder that gives each text its own random tokens, with the family's keys."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cond_stage_model = families.Colours(3, False)  # any small network
        self.patcher = comfy.model_patcher.ModelPatcher(self.cond_stage_model, families.CPU, families.CPU)

    def clone(self) -> Clip:
        return self

    def tokenize(self, text: str, **_: Any) -> dict[str, Any]:
        return {"words": text}

    def encode_from_tokens_scheduled(self, tokens: dict[str, Any], **_: Any) -> list[Any]:
        return families.conditioning(self.name, zlib.crc32(tokens["words"].encode()) % 1000)

    def load_model(self, *_: Any) -> Any:
        return self.patcher


class Case:
    """A family's parts, each made when a row asks for it, and ComfyUI's own sampling of them."""

    def __init__(self, name: str, ours: Callable[[str], Any], models: Path) -> None:
        self.name, self.ours, self.models, self.family = name, ours, models, families.FAMILIES[name]

    @cached_property
    def model(self) -> Any:
        return families.model(self.name)

    @cached_property
    def positive(self) -> list[Any]:
        return families.conditioning(self.name, 0)

    @cached_property
    def negative(self) -> list[Any]:
        return families.conditioning(self.name, 1)

    @cached_property
    def vae(self) -> Any:
        return families.vae(self.name)

    @cached_property
    def clip(self) -> Any:
        return Clip(self.name)

    @property
    def latent(self) -> dict[str, torch.Tensor]:
        return families.latent(self.name)

    @property
    def prompts(self) -> dict[str, Any]:
        return {"positive": self.positive, "negative": self.negative}

    @cached_property
    def sigmas(self) -> torch.Tensor:
        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "simple", STEPS)

    @cached_property
    def host(self) -> Any:
        return self.ours("core.host").current()

    @cached_property
    def noise(self) -> Any:
        return nodes_custom_sampler.Noise_RandomNoise(SEED)

    def node(self, name: str, **given: Any) -> tuple[Any, ...]:
        """What a node of ours returns for `given`, with its defaults for the other inputs."""
        made = nodes.NODE_CLASS_MAPPINGS[f"RapidDraw{name}"]
        wanted: dict[str, Any] = {}
        for kind in ("required", "optional"):
            for key, spec in made.INPUT_TYPES().get(kind, {}).items():
                options = spec[1] if len(spec) > 1 else {}
                if "default" in options or isinstance(spec[0], list):
                    wanted[key] = options.get("default", spec[0][0] if isinstance(spec[0], list) else None)
        result = getattr(made(), made.FUNCTION)(**(wanted | given))
        return tuple(result["result"]) if isinstance(result, dict) else tuple(result)

    def switch(self, node: str = "TimeDecoupledGuider") -> dict[str, Any]:
        """Return the inputs of `node` that switch models at the noise level of the second step."""
        wanted = nodes.NODE_CLASS_MAPPINGS[f"RapidDraw{node}"].INPUT_TYPES().get("optional", {})
        return {"switch_as": "sigma", "switch_at": float(self.sigmas[1])} if "switch_as" in wanted else {}

    def guider(self, model: Any | None = None, positive: Any = None) -> Any:
        """ComfyUI's own CFG guider."""
        guider = comfy.samplers.CFGGuider(model or self.model)
        guider.set_conds(positive or self.positive, self.negative)
        guider.set_cfg(CFG)
        return guider

    def sampled(self, guider: Any | None = None, sampler: Any = "euler", sigmas: Any = None, latent: Any = None) -> torch.Tensor:
        """What SamplerCustomAdvanced gives."""
        guider, latent = guider or self.guider(), latent or self.latent
        sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        noise = self.noise.generate_noise(latent)
        sigmas = self.sigmas if sigmas is None else sigmas
        return guider.sample(noise, latent["samples"], sampler, sigmas, denoise_mask=latent.get("noise_mask"), seed=SEED, disable_pbar=True)

    @cached_property
    def stock(self) -> torch.Tensor:
        """The picture of ComfyUI's own euler."""
        return self.sampled()
