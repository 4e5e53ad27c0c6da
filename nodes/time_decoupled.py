"""Nodes that draw with two models, one for the structure and one for the texture (PanGu-Draw, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .stages import cfg_input, chainable_pair, level_of, make_guider, pair, part_of_run, switch_input, switch_options, texture_inputs
from .works_with import ANY_MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent

_HISTORY = (
    "What a multistep sampler remembers when the models change. keep: all, in one run; with the same model twice the picture is the stock "
    "KSampler's, bit for bit. reset: nothing, in two runs that are cut at the first step below the switch. Measured between two analytic "
    "models, the error with PLMS was 0.31 (keep) and 0.22 (reset) at 8 steps, 0.09 and 0.05 at 20, and equal at 40; with dpmpp_2m 0.19 "
    "and 0.17 at 8."
)


class TimeDecoupledGuider:
    """A GUIDER of two models for SamplerCustomAdvanced."""

    DISPLAY_NAME = "Time-Decoupled Guider"
    CATEGORY = "RapidDraw/time-decoupled"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = (
        "two models", "refiner", "sdxl refiner", "wan high low noise", "high noise low noise", "switch model", "mixture of experts",
        "two experts", "guider",
    )  # fmt: skip
    DESCRIPTION = (
        "Draws one picture with two models, or more in a chain, for SamplerCustomAdvanced: a structure model at high noise levels, a "
        "texture model at low ones, each with its own LoRAs, prompts, guidance scale and ControlNets. Like SDXL's base and refiner, or "
        "Wan's high-noise and low-noise models, but in one sampling run, with every sampler and every schedule. Method: time-decoupled "
        "training of PanGu-Draw (section 4.1). "
        "For any model."
    )
    RETURN_TYPES = ("GUIDER",)
    RETURN_NAMES = ("guider",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced. Take the sigmas from the structure model's schedule.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                **chainable_pair(),
                "structure_cfg": cfg_input("structure"),
                "texture_cfg": cfg_input("texture"),
                "t_struct": switch_input(),
            },
            "optional": texture_inputs(),
        }

    def execute(self, **inputs: Any) -> tuple[Any]:
        return (make_guider(**inputs),)


class TimeDecoupledSampler:
    """A KSampler with two models."""

    DISPLAY_NAME = "Time-Decoupled KSampler"
    CATEGORY = "RapidDraw/time-decoupled"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = (
        "two models", "refiner", "sdxl refiner", "wan high low noise", "high noise low noise", "switch model", "mixture of experts",
        "two experts", "ksampler",
    )  # fmt: skip
    DESCRIPTION = (
        "Draws one picture with two models in one sampling run: a structure model draws the layout, a texture model the details. Like "
        "SDXL's base and refiner, or Wan's high-noise and low-noise models. It replaces two KSamplerAdvanced, and the switch stays at "
        "its noise level when you change the steps. With the same model twice it gives the stock KSampler's picture. Method: "
        "time-decoupled training of PanGu-Draw (section 4.1). "
        "For any model."
    )
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The drawn latent, for the VAE that both models share.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.host import current

        host = current()
        seed = {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}
        strength = (
            "How much of the picture is drawn again, 0 to 1. 1 starts from pure noise; less keeps the structure of the given "
            "picture, and may start below the switch."
        )
        return {
            "required": {
                **chainable_pair(),
                "latent_image": ("LATENT", {"tooltip": "The latent to draw on; an empty latent for a new picture."}),
                "seed": ("INT", {**seed, "tooltip": "The seed of the noise. The same seed gives the same picture."}),
                "steps": (
                    "INT",
                    {
                        "default": 40,
                        "min": 1,
                        "max": 10000,
                        "tooltip": (
                            "Steps of the whole sampling run, both models together. More is more exact and takes longer. PanGu-Draw's "
                            "released code uses 40."
                        ),
                    },
                ),
                "structure_cfg": cfg_input("structure"),
                "texture_cfg": cfg_input("texture"),
                "sampler_name": (host.sampling.sampler_names(), {"tooltip": "The sampling method. PanGu-Draw's released code uses euler."}),
                "scheduler": (
                    host.sampling.scheduler_names(),
                    {"tooltip": "The noise levels of the steps, on the structure model's schedule."},
                ),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": strength}),
                "t_struct": switch_input(),
                "history": (["keep", "reset"], {"default": "keep", "tooltip": _HISTORY}),
            },
            "optional": {**texture_inputs(), **part_of_run()},
        }

    def execute(self, latent_image: Latent, seed: int, steps: int, sampler_name: str, scheduler: str, denoise: float, history: str,
                add_noise: str = "enable", start_at_step: int = 0, end_at_step: int = 10000, return_with_leftover_noise: str = "disable",
                **stages: Any) -> tuple[Latent]:  # fmt: skip
        from ..core.host import SamplingRun, current

        leftover = return_with_leftover_noise == "enable"
        run = SamplingRun(seed, steps, sampler_name, scheduler, denoise, start_at_step, end_at_step, add_noise != "disable", leftover)
        return (current().time_decoupled.sample(make_guider(**stages), latent_image, run, history),)


class TimeDecoupledModel:
    """Two MODELs as one, for nodes that take a MODEL."""

    DISPLAY_NAME = "Time-Decoupled Model"
    CATEGORY = "RapidDraw/time-decoupled"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = (
        "two models", "refiner", "sdxl refiner", "wan high low noise", "combine models", "switch model", "mixture of experts",
        "two experts",
    )  # fmt: skip
    DESCRIPTION = (
        "Makes one MODEL of a structure and a texture model, for nodes without a GUIDER input: the first draws at high noise levels, the "
        "second at low ones (PanGu-Draw, section 4.1). Both get the same prompts and guidance scale; guidance patches of the texture "
        "model do not act. Where you can, use Time-Decoupled KSampler. "
        "For any model."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("For any sampler. A LoRA or patch after this node changes the structure model only.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        models = pair()
        required = {"structure": models["structure"], "texture": models["texture"], "t_struct": switch_input()}
        return {"required": required, "optional": switch_options()}

    def execute(self, structure: Any, texture: Any, t_struct: int, switch_as: str = "timestep", switch_at: float = 0.5) -> tuple[Any]:
        from ..core.host import current

        return (current().time_decoupled.join(structure, texture, level_of(t_struct, switch_as, switch_at)),)


class SplitSigmasAtTimestep:
    """Two parts of a list of sigmas, cut at a timestep."""

    DISPLAY_NAME = "Split Sigmas at Timestep"
    CATEGORY = "RapidDraw/time-decoupled"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("split sigmas", "refiner switch", "boundary", "wan high low noise", "switch step")
    DESCRIPTION = (
        "Splits a schedule between two samplers at a known noise level: the first list for the sampler that adds noise, the second for "
        "one that adds none (DisableNoise). The cut is at the first level below the timestep, and no level is added. A timestep is not a "
        "share of the steps: with karras, 500 is not the middle. "
        "For any model."
    )
    RETURN_TYPES = ("SIGMAS", "SIGMAS")
    RETURN_NAMES = ("high_sigmas", "low_sigmas")
    OUTPUT_TOOLTIPS = (
        "The levels from the timestep upwards and the next one: the structure model's part. It may have no step.",
        "The levels from there on: the texture model's part. It may have no step.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        cut = (
            "The timestep of the cut, 0 to 1000. 0 puts all steps into the first part, 1000 into the second. PanGu-Draw changes "
            "models at 500 (section 5.3)."
        )
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model whose schedule gives the noise level of the timestep."}),
                "sigmas": ("SIGMAS", {"tooltip": "The noise levels to split, from a scheduler node."}),
                "timestep": ("INT", {"default": 500, "min": 0, "max": 1000, "tooltip": cut}),
            },
            "optional": switch_options(),
        }

    def execute(
        self, model: Any, sigmas: Tensor, timestep: int, switch_as: str = "timestep", switch_at: float = 0.5
    ) -> tuple[Tensor, Tensor]:
        from ..core.diffusion.time_decoupled import split_sigmas

        return split_sigmas(sigmas, model.get_model_object("model_sampling"), level_of(timestep, switch_as, switch_at))


NODE_CLASS_MAPPINGS = {
    "RapidDrawTimeDecoupledGuider": TimeDecoupledGuider,
    "RapidDrawTimeDecoupledSampler": TimeDecoupledSampler,
    "RapidDrawTimeDecoupledModel": TimeDecoupledModel,
    "RapidDrawSplitSigmasAtTimestep": SplitSigmasAtTimestep,
}
