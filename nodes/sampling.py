"""Samplers for SamplerCustomAdvanced and SamplerCustom, and a report of their cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .works_with import ANY_MODEL, ANY_SAMPLER

if TYPE_CHECKING:
    from .sockets import Inputs, Latent


class SamplerPNDM:
    """PNDM (Liu et al. 2022), which Rapid Diffusion samples with (section 3.1.2), as a SAMPLER."""

    DISPLAY_NAME = "PNDM Sampler"
    CATEGORY = "RapidDraw/sampling"
    WORKS_WITH = ANY_SAMPLER
    SEARCH_ALIASES = ("plms", "ddim", "scheduler pndm", "fewer steps", "faster", "sampler")
    DESCRIPTION = (
        "More exact than Euler or DDIM for the same work: about one network evaluation for each step. Use the scheduler simple, normal, "
        "ddim_uniform or sgm_uniform. Method: PNDM, pseudo numerical methods (Liu et al. 2022), the sampler of Rapid Diffusion (section "
        "3.1.2)."
    )
    RETURN_TYPES = ("SAMPLER",)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced or SamplerCustom. Deterministic: it adds no noise between the steps.",)
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
                            "Cost for N steps, in network evaluations: PLMS N + 1 (4th order, as in latent diffusion's code), F-PNDM N + "
                            "9 (as in the PNDM paper: three Runge-Kutta steps first), S-PNDM N + 1 (2nd order). All assume uniform "
                            "timesteps; on karras and the like they are approximate, and the log warns once. With guidance use 25 steps "
                            "or more: larger steps make the 4th order unstable. For fewer steps take S-PNDM. Rapid Diffusion uses 50 "
                            "steps."
                        ),
                    },
                ),
            }
        }

    def execute(self, variant: str) -> tuple[Any]:
        from ..core.diffusion.samplers.pndm import check_variant, sample_pndm
        from ..core.host import current

        return (current().sampling.make_sampler(sample_pndm, {"variant": check_variant(variant)}),)


def _real(default: float, low: float, high: float, step: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": default, "min": low, "max": high, "step": step, "round": False, "tooltip": tooltip})


def _whole(default: int, low: int, high: int, tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("INT", {"default": default, "min": low, "max": high, "tooltip": tooltip})


class SamplerPicard:
    """ParaDiGMS (Shih et al. 2023), parallel sampling by Picard iteration, as a SAMPLER."""

    DISPLAY_NAME = "Picard Sampler (parallel steps)"
    CATEGORY = "RapidDraw/sampling"
    WORKS_WITH = ANY_SAMPLER
    SEARCH_ALIASES = ("parallel sampling", "paradigms", "faster", "multi step", "parallel steps", "sampler")
    DESCRIPTION = (
        "Shortens the time to a picture on hardware with room to spare: many steps are refined together, in one batch, until they stop "
        "changing. It needs more evaluations, not fewer, so on a CPU it is slower. The picture is that of euler (ddim) or euler_ancestral "
        "(ddpm). Any schedule is valid; gains begin at about 25 steps. Method: ParaDiGMS (Shih et al. 2023)."
    )
    RETURN_TYPES = ("SAMPLER",)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced or SamplerCustom. Sampler Report shows its iterations and evaluations.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "method": (
                    ["ddim", "ddpm"],
                    {
                        "default": "ddim",
                        "tooltip": "ddim: deterministic, the picture of euler. ddpm: stochastic, the picture of euler_ancestral.",
                    },
                ),
                "window": _whole(
                    16, 1, 1000,
                    "How many steps are refined together, in one batch. A larger window takes fewer iterations, but more evaluations and "
                    "memory. The ParaDiGMS paper uses 8 to 80, depending on the machine.",
                ),
                "tolerance": _real(
                    0.1, 0.0, 10.0, 0.001,
                    "How much a state may still change and count as finished, in units of the noise that DDPM adds at that step. Smaller "
                    "is closer to the step-by-step picture and takes more iterations; 0 gives that picture. The ParaDiGMS paper uses 0.1.",
                ),
                "max_states": _whole(
                    0, 0, 1000,
                    "At most so many states in one call of the model; 0 is the whole window. Lower it where memory runs out. 1 suits "
                    "patches that expect one noise level in a call.",
                ),
            }
        }  # fmt: skip

    def execute(self, method: str, window: int, tolerance: float, max_states: int) -> tuple[Any]:
        from ..core.diffusion.samplers.picard import sample_picard
        from ..core.host import current

        options = {"method": method, "window": window, "tolerance": tolerance, "max_states": max_states, "stats": {}}
        return (current().sampling.make_sampler(sample_picard, options),)


class SamplerAdaptiveSDE:
    """The adaptive SDE solver of Jolicoeur-Martineau et al. 2021 as a SAMPLER."""

    DISPLAY_NAME = "Adaptive SDE Sampler"
    CATEGORY = "RapidDraw/sampling"
    WORKS_WITH = ANY_SAMPLER
    SEARCH_ALIASES = ("adaptive steps", "automatic steps", "sde", "stochastic sampler", "dpm adaptive", "sampler")
    DESCRIPTION = (
        "Chooses the size of its steps by an error tolerance, so you need not choose a number of steps. Any schedule is valid, and only "
        "its first and last noise level count. It often takes 100 evaluations or more. The same seed gives the same picture. Method: "
        "Jolicoeur-Martineau et al. 2021, 'Gotta Go Fast'."
    )
    RETURN_TYPES = ("SAMPLER",)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced or SamplerCustom. Sampler Report shows its evaluations.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "rtol": _real(
                    0.05, 0.0, 1.0, 0.001, "Relative error allowed in a step. Larger is faster and coarser. Its paper uses 0.01 to 0.1."
                ),
                "atol": _real(
                    0.0078,
                    0.0001,
                    1.0,
                    0.0001,
                    (
                        "Absolute error allowed in a step. Larger is faster and coarser. Its paper uses 0.0078, one grey level of "
                        "data in [-1, 1]."
                    ),
                ),
                "h_init": _real(
                    0.05,
                    0.001,
                    1.0,
                    0.001,
                    (
                        "Length of the first step, as a share of the whole way in log sigma (sigma is the noise level). Larger "
                        "begins faster, and is corrected where it is too large. Its paper uses 0.01."
                    ),
                ),
                "safety": _real(
                    0.9,
                    0.1,
                    1.0,
                    0.01,
                    (
                        "The next step is this share of the step that the error allows. Larger is faster, with more rejected steps. "
                        "Its paper uses 0.9."
                    ),
                ),
                "exponent": _real(
                    0.9,
                    0.1,
                    1.0,
                    0.01,
                    (
                        "How strongly the step's length follows the error: step / error^exponent. Higher corrects a bad step "
                        "faster. Its paper uses 0.9."
                    ),
                ),
                "max_nfe": _whole(
                    1000,
                    3,
                    100000,
                    (
                        "Most evaluations, 3 to 100000. When they are used up, the rest is one jump, and the log warns. More lets a "
                        "small tolerance finish."
                    ),
                ),
                "probability_flow": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": (
                            "Solves the deterministic equation (the probability-flow ODE): no noise between the steps, fewer "
                            "evaluations, less variety."
                        ),
                    },
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
        return (current().sampling.make_sampler(sample_adaptive_sde, options),)


class SamplerDPMSolver:
    """DPM-Solver++ of orders 1 to 3 as a SAMPLER."""

    DISPLAY_NAME = "DPM-Solver++ Sampler"
    CATEGORY = "RapidDraw/sampling"
    WORKS_WITH = ANY_SAMPLER
    SEARCH_ALIASES = ("dpm++", "dpmpp", "few steps", "fewer steps", "faster", "2m", "3m", "sampler")
    DESCRIPTION = (
        "Good pictures in about 10 to 20 steps, with one evaluation for each step. Any descending schedule is valid. The higher orders "
        "help where steps are alike in log sigma: use karras, exponential or simple. The last step of normal and ddim_uniform is long; "
        "the log then warns once. Method: DPM-Solver++ (Lu et al. 2022)."
    )
    RETURN_TYPES = ("SAMPLER",)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced or SamplerCustom. Deterministic: it adds no noise between the steps.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "order": _whole(
                    2, 1, 3,
                    "Order of the solver. 1 is DDIM. 2 is the authors' choice with guidance. 3 is more exact with many steps, and less "
                    "stable with few steps and strong guidance.",
                ),
                "method": (
                    ["multistep", "singlestep"],
                    {
                        "default": "multistep",
                        "tooltip": (
                            "multistep uses the steps before: smooth, and the authors' choice with guidance. singlestep works in groups "
                            "of neighbouring steps and keeps nothing between the groups. Both take one evaluation for each step."
                        ),
                    },
                ),
            }
        }  # fmt: skip

    def execute(self, order: int, method: str) -> tuple[Any]:
        from ..core.diffusion.samplers.dpm_solver import sample_dpm_solver
        from ..core.host import current

        return (current().sampling.make_sampler(sample_dpm_solver, {"order": order, "method": method}),)


class SamplerReport:
    """The cost of a sampler's last run, as text."""

    DISPLAY_NAME = "Sampler Report"
    CATEGORY = "RapidDraw/sampling"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("count steps", "function evaluations", "nfe", "sampler statistics")
    DESCRIPTION = (
        "Shows the cost of a Picard or adaptive sampler: iterations, evaluations, accepted and rejected steps. Link the sampler and the "
        "latent that it made; the report is then written after sampling. The latent passes through unchanged."
    )
    RETURN_TYPES = ("LATENT", "STRING")
    RETURN_NAMES = ("latent", "report")
    OUTPUT_TOOLTIPS = ("The latent as it came.", "One number on each line. Show it with Preview Any.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "sampler": (
                    "SAMPLER",
                    {"tooltip": "The sampler that made the latent. Where several samplings share it, the report is about the last one."},
                ),
                "latent": ("LATENT", {"tooltip": "The latent that the sampling gave. It passes through."}),
            }
        }

    def execute(self, sampler: Any, latent: Latent) -> tuple[Latent, str]:
        stats = getattr(sampler, "extra_options", {}).get("stats")
        if stats is None:
            return latent, "this sampler keeps no report: it takes a fixed number of evaluations for each step"
        if not stats:
            return latent, "this sampler has not run yet: link the latent that it makes"
        return latent, "\n".join(f"{key.replace('_', ' ')}: {value}" for key, value in stats.items())


NODE_CLASS_MAPPINGS = {
    "RapidDrawSamplerPNDM": SamplerPNDM,
    "RapidDrawSamplerPicard": SamplerPicard,
    "RapidDrawSamplerAdaptiveSDE": SamplerAdaptiveSDE,
    "RapidDrawSamplerDPMSolver": SamplerDPMSolver,
    "RapidDrawSamplerReport": SamplerReport,
}
