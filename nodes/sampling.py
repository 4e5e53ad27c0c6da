"""Samplers for SamplerCustomAdvanced and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sockets import Inputs, Latent


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
    def INPUT_TYPES(cls) -> Inputs:
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
                            "With guidance take 25 steps or more: longer steps make the 4th order unstable; S-PNDM bears shorter walks. "
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


def _real(default: float, low: float, high: float, step: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": default, "min": low, "max": high, "step": step, "round": False, "tooltip": tooltip})


def _whole(default: int, low: int, high: int, tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("INT", {"default": default, "min": low, "max": high, "tooltip": tooltip})


class SamplerPicard:
    """ParaDiGMS (Shih et al. 2023), parallel sampling by Picard iteration, as a SAMPLER."""

    DISPLAY_NAME = "Picard Sampler (parallel steps)"
    CATEGORY = "RapidDraw/sampling"
    DESCRIPTION = (
        "ParaDiGMS (Shih et al. 2023): refines many steps of a walk at once until they stop changing, so that 100 steps take the time of "
        "about 20 batched ones where the hardware has room for the batch. It makes more evaluations, not fewer: on a CPU it is slower than "
        "the plain walk. The picture is that of euler (ddim) or euler_ancestral (ddpm) at the same steps. Any schedule is valid; it pays "
        "from about 25 steps. Method ddpm is not for flow models (a warning says so)."
    )
    RETURN_TYPES = ("SAMPLER",)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("A sampler for SamplerCustomAdvanced or SamplerCustom. Sampler Report tells its iterations and evaluations.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "method": (
                    ["ddim", "ddpm"],
                    {
                        "default": "ddim",
                        "tooltip": "ddim: the deterministic walk (euler). ddpm: the stochastic one (euler_ancestral).",
                    },
                ),
                "window": _whole(
                    16, 1, 1000,
                    "Steps refined at a time. More take fewer iterations but more evaluations and memory: that many states go through the "
                    "model in one batch. The paper uses 8 to 80, depending on the machine.",
                ),
                "tolerance": _real(
                    0.1, 0.0, 10.0, 0.001,
                    "How much a state may still move and count as finished, in units of the noise DDPM adds in that step. The paper uses "
                    "0.1. Smaller is closer to the step-by-step walk and takes more iterations; 0 is that walk.",
                ),
                "max_states": _whole(
                    0, 0, 1000,
                    "At most so many states in one call of the model; 0: the whole window. Lower it when memory runs out. 1 also helps "
                    "patches that expect one noise level a call.",
                ),
            }
        }  # fmt: skip

    def execute(self, method: str, window: int, tolerance: float, max_states: int) -> tuple[Any]:
        from ..core.diffusion.samplers.picard import sample_picard
        from ..core.host import current

        options = {"method": method, "window": window, "tolerance": tolerance, "max_states": max_states, "stats": {}}
        return (current().make_sampler(sample_picard, options),)


class SamplerAdaptiveSDE:
    """The adaptive SDE solver of Jolicoeur-Martineau et al. 2021 as a SAMPLER."""

    DISPLAY_NAME = "Adaptive SDE Sampler"
    CATEGORY = "RapidDraw/sampling"
    DESCRIPTION = (
        '"Gotta go fast" (Jolicoeur-Martineau et al. 2021): a stochastic solver that chooses its own steps by a tolerance. Any schedule is '
        "valid, but only its first and last level count, not its number of steps: it runs until the tolerance is met, often 100 "
        "evaluations or more. Same seed, same picture. Not for flow models (a warning says so)."
    )
    RETURN_TYPES = ("SAMPLER",)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("A sampler for SamplerCustomAdvanced or SamplerCustom. Sampler Report tells its evaluations.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "rtol": _real(
                    0.05, 0.0, 1.0, 0.001, "Relative error allowed in a step; the paper uses 0.01 to 0.1. Larger is faster and coarser."
                ),
                "atol": _real(
                    0.0078, 0.0001, 1.0, 0.0001, "Absolute error allowed in a step; the paper uses 0.0078, a grey level of data in [-1, 1]."
                ),
                "h_init": _real(0.05, 0.001, 1.0, 0.001, "The first step, as a share of the whole way in log sigma. The paper uses 0.01."),
                "safety": _real(0.9, 0.1, 1.0, 0.01, "The next step is this share of the one the error allows. The paper uses 0.9."),
                "exponent": _real(
                    0.9,
                    0.1,
                    1.0,
                    0.01,
                    "How strongly a step follows the error, step / error^exponent. The paper uses 0.9.",
                ),
                "max_nfe": _whole(
                    1000, 3, 100000, "Evaluations after which it gives up and takes the rest in one jump, with a warning in the log."
                ),
                "probability_flow": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Solve the ODE instead: no noise on the way, fewer evaluations, less variety."},
                ),
            }
        }

    def execute(
        self, rtol: float, atol: float, h_init: float, safety: float, exponent: float, max_nfe: int, probability_flow: bool
    ) -> tuple[Any]:
        from ..core.diffusion.samplers.adaptive import sample_adaptive_sde
        from ..core.host import current

        options = {
            "rtol": rtol, "atol": atol, "h_init": h_init, "safety": safety, "exponent": exponent, "max_nfe": max_nfe,
            "probability_flow": probability_flow, "stats": {},
        }  # fmt: skip
        return (current().make_sampler(sample_adaptive_sde, options),)


class SamplerDPMSolver:
    """DPM-Solver++ of orders 1 to 3 as a SAMPLER."""

    DISPLAY_NAME = "DPM-Solver++ Sampler"
    CATEGORY = "RapidDraw/sampling"
    DESCRIPTION = (
        "DPM-Solver++ (Lu et al. 2022) of order 1, 2 or 3, one evaluation a step, made for about 10 to 20 steps. Valid on any descending "
        "schedule; the higher orders pay where steps in log sigma are of like size: karras, exponential, simple. On normal or "
        "ddim_uniform, whose last step is long, it warns once. Not for flow models (a warning says so)."
    )
    RETURN_TYPES = ("SAMPLER",)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("A sampler for SamplerCustomAdvanced or SamplerCustom. Deterministic: it adds no noise of its own.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "order": _whole(
                    2, 1, 3,
                    "1 is DDIM. 2 is the authors' choice for guided sampling. 3 is closer yet with many steps, and less stable with few "
                    "steps and strong guidance.",
                ),
                "method": (
                    ["multistep", "singlestep"],
                    {
                        "default": "multistep",
                        "tooltip": (
                            "multistep extrapolates from earlier steps: smooth, and the authors' choice for guided sampling. singlestep "
                            "groups neighbouring steps and carries nothing over. Both take one evaluation a step."
                        ),
                    },
                ),
            }
        }  # fmt: skip

    def execute(self, order: int, method: str) -> tuple[Any]:
        from ..core.diffusion.samplers.dpm_solver import sample_dpm_solver
        from ..core.host import current

        return (current().make_sampler(sample_dpm_solver, {"order": order, "method": method}),)


class SamplerReport:
    """What the last run of a sampler took, as text."""

    DISPLAY_NAME = "Sampler Report"
    CATEGORY = "RapidDraw/sampling"
    DESCRIPTION = (
        "Says what a Picard or adaptive sampler's last run took: iterations, evaluations, accepted and rejected steps. Link the sampler, "
        "and the latent that it made, so that this node runs after it; the latent passes through untouched."
    )
    RETURN_TYPES = ("LATENT", "STRING")
    RETURN_NAMES = ("latent", "report")
    OUTPUT_TOOLTIPS = ("The latent as it came.", "One line a number. Show it with Preview Any.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "sampler": ("SAMPLER", {"tooltip": "The sampler that made the latent. One used by several samplings tells of the last."}),
                "latent": ("LATENT", {"tooltip": "What that sampling gave; passed through."}),
            }
        }

    def execute(self, sampler: Any, latent: Latent) -> tuple[Latent, str]:
        stats = getattr(sampler, "extra_options", {}).get("stats")
        if stats is None:
            return latent, "this sampler takes one evaluation or a fixed number a step and keeps no report"
        if not stats:
            return latent, "this sampler has not run yet"
        return latent, "\n".join(f"{key.replace('_', ' ')}: {value}" for key, value in stats.items())


NODE_CLASS_MAPPINGS = {
    "RapidDrawSamplerPNDM": SamplerPNDM,
    "RapidDrawSamplerPicard": SamplerPicard,
    "RapidDrawSamplerAdaptiveSDE": SamplerAdaptiveSDE,
    "RapidDrawSamplerDPMSolver": SamplerDPMSolver,
    "RapidDrawSamplerReport": SamplerReport,
}
