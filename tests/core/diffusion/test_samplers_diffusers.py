"""Samplers in sigma space against diffusers' schedulers, which work on z_t with timesteps: same grid, same picture."""

import pytest
import torch
from rapiddraw.core.diffusion.samplers import SAMPLERS
from rapiddraw.core.diffusion.schedule import calculate_sigmas
from rapiddraw.tests.diffusers_helpers import run_diffusers

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# Our grids by the name diffusers has for their spacing.
SPACINGS = [("simple", {"timestep_spacing": "trailing"}), ("ddim_uniform", {"timestep_spacing": "leading", "steps_offset": 1})]


def start(sigmas):
    return torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * float(sigmas[0])


def assert_same_picture(ours, theirs):
    error = float((ours - theirs).norm() / theirs.norm())
    assert error < 1e-4, f"relative difference {error:.2e}"


@pytest.mark.parametrize("steps", [5, 10, 20, 50])
@pytest.mark.parametrize(("name", "spacing"), SPACINGS)
def test_euler_is_ddim(name, spacing, steps, schedule, mixture_denoiser):
    from diffusers import DDIMScheduler

    sigmas = calculate_sigmas(schedule, name, steps).double()
    theirs = DDIMScheduler(**BETAS, **spacing, set_alpha_to_one=True, clip_sample=False)
    expected = run_diffusers(theirs, mixture_denoiser, start(sigmas), sigmas[0], steps)
    assert_same_picture(SAMPLERS["euler"](mixture_denoiser, start(sigmas), sigmas), expected)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise(eta, schedule, mixture_denoiser):
    from diffusers import DDIMScheduler

    sigmas = calculate_sigmas(schedule, "simple", 20).double()
    theirs = DDIMScheduler(**BETAS, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False)
    ours, same = (torch.Generator().manual_seed(9) for _ in range(2))
    expected = run_diffusers(theirs, mixture_denoiser, start(sigmas), sigmas[0], 20, eta=eta, generator=same)

    def noise(sigma, sigma_next):
        return torch.randn(64, 2, dtype=torch.float64, generator=ours)

    assert_same_picture(SAMPLERS["ddim"](mixture_denoiser, start(sigmas), sigmas, eta=eta, noise_sampler=noise), expected)


@pytest.mark.parametrize("steps", [5, 10, 25, 40, 50])
@pytest.mark.parametrize("spacing", SPACINGS, ids=lambda s: s[0])
@pytest.mark.parametrize(("variant", "skip"), [("plms", True), ("f_pndm", False)])
def test_pndm_variants(variant, skip, spacing, steps, schedule, wrap, mixture_denoiser):
    from diffusers import PNDMScheduler

    name, options = spacing
    sigmas = calculate_sigmas(schedule, name, steps).double()
    theirs = PNDMScheduler(**BETAS, **options, skip_prk_steps=skip, set_alpha_to_one=True)
    expected = run_diffusers(theirs, mixture_denoiser, start(sigmas), sigmas[0], steps)
    model = wrap(mixture_denoiser, schedule)
    assert_same_picture(SAMPLERS[variant](model, start(sigmas), sigmas), expected)
    assert len(model.levels) == len(theirs.timesteps)
