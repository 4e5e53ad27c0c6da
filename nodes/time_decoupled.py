"""Nodes that draw with two models, one for the structure and one for the texture (PanGu-Draw, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent

_STRUCTURE = "The model for the layout, at high noise levels. The steps and the timestep of the switch follow its noise schedule."
_TEXTURE = (
    "The model for the details, at low noise levels. It must share the structure model's latent space and VAE; its prediction (eps, v or "
    "x0) and its schedule may differ. It is loaded when its turn comes."
)
_HISTORY = (
    "What a multistep sampler remembers when the models change. keep: all, in one run; with the same model twice the picture is the stock "
    "KSampler's, bit for bit. reset: nothing, in two runs that are cut at the first step below the switch. Measured between two analytic "
    "models, the error with PLMS was 0.31 (keep) and 0.22 (reset) at 8 steps, 0.09 and 0.05 at 20, and equal at 40; with dpmpp_2m 0.19 "
    "and 0.17 at 8."
)


def _switch_input() -> tuple[str, dict[str, Any]]:
    tooltip = (
        "Timestep of the switch, on the structure model's schedule, from 999 (noise) to 0 (picture). The structure model draws from this "
        "timestep upwards, the texture model below it; higher gives the texture model more of the work. 0: structure model alone. 1000: "
        "texture model alone. PanGu-Draw's value is 500 (section 5.3)."
    )
    return ("INT", {"default": 500, "min": 0, "max": 1000, "tooltip": tooltip})


def _cfg_input(whose: str) -> tuple[str, dict[str, Any]]:
    tooltip = (
        f"Guidance scale of the {whose} model, 0 to 100. Higher follows the prompt more closely; 1 switches guidance off. "
        "PanGu-Draw uses 2 and 9 in Tables 1 and 2, and 6 in its released code."
    )
    return ("FLOAT", {"default": 6.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": tooltip})


def _pair() -> dict[str, Any]:
    return {
        "structure": ("MODEL", {"tooltip": _STRUCTURE}),
        "texture": ("MODEL", {"tooltip": _TEXTURE}),
        "positive": (
            "CONDITIONING",
            {"tooltip": "What the picture should show. A ControlNet here also acts on a texture model of the same architecture."},
        ),
        "negative": ("CONDITIONING", {"tooltip": "What the picture should not show."}),
    }


def _texture_conditions() -> dict[str, Any]:
    same = "Without it, the structure model's is used. Needed where the texture model has another text encoder."
    return {
        "texture_positive": ("CONDITIONING", {"tooltip": f"The texture model's own prompt. {same}"}),
        "texture_negative": ("CONDITIONING", {"tooltip": f"The texture model's own negative prompt. {same}"}),
    }


def _guider(structure: Any, texture: Any, positive: Any, negative: Any, structure_cfg: float, texture_cfg: float, t_struct: int,
            texture_positive: Any = None, texture_negative: Any = None) -> Any:  # fmt: skip
    from ..core.host import Stage, current

    stages = Stage(structure, positive, negative, structure_cfg, t_struct), Stage(texture, texture_positive, texture_negative, texture_cfg)
    return current().time_decoupled.make_guider(stages)


class TimeDecoupledGuider:
    """A GUIDER of two models for SamplerCustomAdvanced."""

    DISPLAY_NAME = "Time-Decoupled Guider"
    CATEGORY = "RapidDraw/time-decoupled"
    SEARCH_ALIASES = (
        "two models", "refiner", "sdxl refiner", "wan high low noise", "high noise low noise", "switch model", "mixture of experts",
        "two experts", "guider",
    )  # fmt: skip
    DESCRIPTION = (
        "Draws one picture with two models, for SamplerCustomAdvanced: a structure model at high noise levels, a texture model at low "
        "ones, each with its own prompts, guidance scale and ControlNets. Like SDXL's base and refiner, or Wan's high-noise and low-noise "
        "models, but in one sampling run, with every sampler and every schedule. Method: time-decoupled training of PanGu-Draw (section "
        "4.1)."
    )
    RETURN_TYPES = ("GUIDER",)
    RETURN_NAMES = ("guider",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced. Take the sigmas from the structure model's schedule.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                **_pair(),
                "structure_cfg": _cfg_input("structure"),
                "texture_cfg": _cfg_input("texture"),
                "t_struct": _switch_input(),
            },
            "optional": _texture_conditions(),
        }

    def execute(self, **inputs: Any) -> tuple[Any]:
        return (_guider(**inputs),)


class TimeDecoupledSampler:
    """A KSampler with two models."""

    DISPLAY_NAME = "Time-Decoupled KSampler"
    CATEGORY = "RapidDraw/time-decoupled"
    SEARCH_ALIASES = (
        "two models", "refiner", "sdxl refiner", "wan high low noise", "high noise low noise", "switch model", "mixture of experts",
        "two experts", "ksampler",
    )  # fmt: skip
    DESCRIPTION = (
        "Draws one picture with two models in one sampling run: a structure model draws the layout, a texture model the details. Like "
        "SDXL's base and refiner, or Wan's high-noise and low-noise models. With the same model twice it gives the stock KSampler's "
        "picture. Method: time-decoupled training of PanGu-Draw (section 4.1)."
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
                **_pair(),
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
                "structure_cfg": _cfg_input("structure"),
                "texture_cfg": _cfg_input("texture"),
                "sampler_name": (host.sampling.sampler_names(), {"tooltip": "The sampling method. PanGu-Draw's released code uses euler."}),
                "scheduler": (
                    host.sampling.scheduler_names(),
                    {"tooltip": "The noise levels of the steps, on the structure model's schedule."},
                ),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": strength}),
                "t_struct": _switch_input(),
                "history": (["keep", "reset"], {"default": "keep", "tooltip": _HISTORY}),
            },
            "optional": _texture_conditions(),
        }

    def execute(self, latent_image: Latent, seed: int, steps: int, sampler_name: str, scheduler: str, denoise: float, history: str,
                **pair: Any) -> tuple[Latent]:  # fmt: skip
        from ..core.host import SamplingRun, current

        run = SamplingRun(seed, steps, sampler_name, scheduler, denoise)
        return (current().time_decoupled.sample(_guider(**pair), latent_image, run, history),)


class TimeDecoupledModel:
    """Two MODELs as one, for nodes that take a MODEL."""

    DISPLAY_NAME = "Time-Decoupled Model"
    CATEGORY = "RapidDraw/time-decoupled"
    SEARCH_ALIASES = (
        "two models", "refiner", "sdxl refiner", "wan high low noise", "combine models", "switch model", "mixture of experts",
        "two experts",
    )  # fmt: skip
    DESCRIPTION = (
        "Makes one MODEL of a structure and a texture model, for nodes without a GUIDER input: the first draws at high noise levels, the "
        "second at low ones (PanGu-Draw, section 4.1). Both get the same prompts and guidance scale; guidance patches of the texture "
        "model do not act. Where you can, use Time-Decoupled KSampler."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("For any sampler. A LoRA or patch after this node changes the structure model only.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        pair = _pair()
        return {"required": {"structure": pair["structure"], "texture": pair["texture"], "t_struct": _switch_input()}}

    def execute(self, structure: Any, texture: Any, t_struct: int) -> tuple[Any]:
        from ..core.host import current

        return (current().time_decoupled.join(structure, texture, t_struct),)


class SplitSigmasAtTimestep:
    """Two parts of a list of sigmas, cut at a timestep."""

    DISPLAY_NAME = "Split Sigmas at Timestep"
    CATEGORY = "RapidDraw/time-decoupled"
    SEARCH_ALIASES = ("split sigmas", "refiner switch", "boundary", "wan high low noise", "switch step")
    DESCRIPTION = (
        "Splits a schedule between two samplers at a known noise level: the first list for the sampler that adds noise, the second for "
        "one that adds none (DisableNoise). The cut is at the first level below the timestep, and no level is added. A timestep is not a "
        "share of the steps: with karras, 500 is not the middle."
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
            }
        }

    def execute(self, model: Any, sigmas: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        from ..core.diffusion.time_decoupled import split_sigmas_at_timestep

        return split_sigmas_at_timestep(sigmas, model.get_model_object("model_sampling"), timestep)


NODE_CLASS_MAPPINGS = {
    "RapidDrawTimeDecoupledGuider": TimeDecoupledGuider,
    "RapidDrawTimeDecoupledSampler": TimeDecoupledSampler,
    "RapidDrawTimeDecoupledModel": TimeDecoupledModel,
    "RapidDrawSplitSigmasAtTimestep": SplitSigmasAtTimestep,
}
