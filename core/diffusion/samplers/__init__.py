"""Samplers: one plain function each, with the signature of k-diffusion. See :mod:`.common` for what they all promise."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from ...errors import InputError
from .dpmpp import sample_dpmpp_2m, sample_dpmpp_2m_sde
from .euler import sample_ddim, sample_euler, sample_euler_ancestral, sample_heun
from .pndm import sample_pndm

# ComfyUI's names where it has the sampler; the PNDM family is ours.
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "euler": sample_euler,
    "euler_ancestral": sample_euler_ancestral,
    "heun": sample_heun,
    "ddim": sample_ddim,
    "dpmpp_2m": sample_dpmpp_2m,
    "dpmpp_2m_sde": sample_dpmpp_2m_sde,
    "f_pndm": functools.partial(sample_pndm, variant="f_pndm"),
    "s_pndm": functools.partial(sample_pndm, variant="s_pndm"),
    "plms": functools.partial(sample_pndm, variant="plms"),
}
SAMPLER_NAMES = tuple(SAMPLERS)


def get_sampler(name: str) -> Callable[..., Tensor]:
    """The sampler of that name. Raises :class:`InputError` that lists the known ones."""
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler {name!r}: the known ones are {', '.join(SAMPLERS)}")
    return SAMPLERS[name]
