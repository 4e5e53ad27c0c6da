"""Samplers for SamplerCustomAdvanced and its kin."""

from __future__ import annotations

from typing import Any


class SamplerPNDM:
    """PNDM (Liu et al. 2022), the step reducer of Rapid Diffusion, as a SAMPLER."""

    DISPLAY_NAME = "PNDM Sampler"
    CATEGORY = "RapidDraw/sampling"
    DESCRIPTION = (
        "Pseudo numerical methods for diffusion models (Liu et al. 2022): closer to the exact path than Euler or DDIM for about one "
        "network evaluation a step. Pair it with the scheduler simple, normal, ddim_uniform or sgm_uniform."
    )
    RETURN_TYPES = ("SAMPLER",)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("A sampler for SamplerCustomAdvanced or SamplerCustom. Deterministic: it adds no noise of its own.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "variant": (
                    ["PLMS", "F-PNDM", "S-PNDM"],
                    {
                        "default": "PLMS",
                        "tooltip": (
                            "Cost in network evaluations for N steps: PLMS N + 1 (4th order, as latent diffusion ships it), F-PNDM N + 9 "
                            "(as published, three Runge-Kutta steps to start), S-PNDM N + 1 (2nd order). "
                            "The Adams-Bashforth coefficients assume uniform timesteps: use simple, normal, ddim_uniform or "
                            "sgm_uniform; on another grid, such as karras, they are only approximate and the sampler warns once. "
                            "The paper uses 50 steps."
                        ),
                    },
                ),
            }
        }

    def execute(self, variant: str) -> tuple[Any]:
        from ..core.diffusion.samplers.pndm import check_variant, sample_pndm
        from ..core.host import current

        return (current().make_sampler(sample_pndm, {"variant": check_variant(variant)}),)


NODE_CLASS_MAPPINGS = {"RapidDrawSamplerPNDM": SamplerPNDM}
