"""Samplers: one plain function each, with the signature of k-diffusion. :mod:`.common` says what all of them promise."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from ...errors import InputError
from .adaptive import sample_adaptive_sde
from .dpm_solver import sample_dpm_solver
from .dpmpp import sample_dpmpp_2m, sample_dpmpp_2m_sde
from .euler import sample_ddim, sample_euler, sample_euler_ancestral, sample_heun
from .lcm import sample_lcm
from .picard import sample_picard
from .pndm import sample_pndm

# At least one evaluation and exactly one report for each step. The names are ComfyUI's where it has the sampler; the others have own nodes.
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "euler": sample_euler,
    "euler_ancestral": sample_euler_ancestral,
    "heun": sample_heun,
    "ddim": sample_ddim,
    "dpmpp_2m": sample_dpmpp_2m,
    "dpmpp_2m_sde": sample_dpmpp_2m_sde,
    "lcm": sample_lcm,
    "dpm_solver_2s": functools.partial(sample_dpm_solver, order=2, method="singlestep"),
    "dpm_solver_3s": functools.partial(sample_dpm_solver, order=3, method="singlestep"),
    "dpm_solver_3m": functools.partial(sample_dpm_solver, order=3, method="multistep"),
    "f_pndm": functools.partial(sample_pndm, variant="f_pndm"),
    "s_pndm": functools.partial(sample_pndm, variant="s_pndm"),
    "plms": functools.partial(sample_pndm, variant="plms"),
}
SAMPLER_NAMES = tuple(SAMPLERS)
# These choose their own evaluations and do not report once for each step.
FREE_SAMPLERS: dict[str, Callable[..., Tensor]] = {"picard": sample_picard, "adaptive_sde": sample_adaptive_sde}


def get_sampler(name: str) -> Callable[..., Tensor]:
    """Return the sampler of that name. Raises :class:`InputError` that lists the known ones."""
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler {name!r}: the known ones are {', '.join(SAMPLERS)}")
    return SAMPLERS[name]
