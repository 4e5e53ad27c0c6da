"""Two generators split in time (PanGu-Draw, section 3.1): one draws the structure, another the texture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent

_STRUCTURE = "The model that draws the layout, at high noise levels. Its schedule sets the steps, and what timestep the switch is."
_TEXTURE = (
    "The model that draws the details, at low noise levels. It may predict something else (eps, v or x0) and have another schedule, but "
    "must share the structure model's latent space and VAE. It is loaded when its turn comes."
)
_HISTORY = (
    "What a sampler remembers of earlier steps when the models switch. keep: one run; with the same model twice it is the stock "
    "KSampler's picture, bit for bit. reset: two runs, cut at the first step below the switch. It matters to samplers with a memory: "
    "between two analytic models PLMS was off by 0.31 kept and 0.22 reset at 8 steps, by 0.09 and 0.05 at 20, alike at 40; dpmpp_2m by "
    "0.19 and 0.17 at 8."
)


def _switch_input() -> tuple[str, dict[str, Any]]:
    tooltip = (
        "The switch, as a timestep of the structure model's schedule, which counts down from 999 (noise) to 0: the structure model "
        "acts from it upwards, the texture model below. Higher gives the texture model more of the work. 0: structure alone, "
        "1000: texture alone. The paper's best value is 500."
    )
    return ("INT", {"default": 500, "min": 0, "max": 1000, "tooltip": tooltip})


def _cfg_input(whose: str) -> tuple[str, dict[str, Any]]:
    tooltip = (
        f"Guidance scale of the {whose} model: higher follows the prompt more closely; 1 switches guidance off. The paper's release uses 6."
    )
    return ("FLOAT", {"default": 6.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": tooltip})


def _pair() -> dict[str, Any]:
    return {
        "structure": ("MODEL", {"tooltip": _STRUCTURE}),
        "texture": ("MODEL", {"tooltip": _TEXTURE}),
        "positive": (
            "CONDITIONING",
            {"tooltip": "What the picture should show. A ControlNet on it acts on the texture model too if both are of one architecture."},
        ),
        "negative": ("CONDITIONING", {"tooltip": "What the picture should not show."}),
    }


def _texture_conditions() -> dict[str, Any]:
    same = "Without it the structure model's is used; give one where the texture model has another text encoder."
    return {
        "texture_positive": ("CONDITIONING", {"tooltip": f"The texture model's own prompt. {same}"}),
        "texture_negative": ("CONDITIONING", {"tooltip": f"The texture model's own negative prompt. {same}"}),
    }


def _guider(structure: Any, texture: Any, positive: Any, negative: Any, structure_cfg: float, texture_cfg: float, t_struct: int,
            texture_positive: Any = None, texture_negative: Any = None) -> Any:  # fmt: skip
    from ..core.host import current

    conds, own = (positive, negative), (texture_positive, texture_negative)
    return current().time_decoupled_guider(structure, texture, conds, own, (structure_cfg, texture_cfg), t_struct)


class TimeDecoupledGuider:
    """A GUIDER of two models for SamplerCustomAdvanced."""

    DISPLAY_NAME = "Time-Decoupled Guider"
    CATEGORY = "RapidDraw/time-decoupled"
    DESCRIPTION = (
        "Guides with two models (PanGu-Draw): a structure model at high noise levels, a texture model at low ones, each with its own "
        "prompts, guidance scale and ControlNets. The noise level of each evaluation decides, so every sampler and every list of sigmas "
        "works, in one run of the sampler."
    )
    RETURN_TYPES = ("GUIDER",)
    RETURN_NAMES = ("guider",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced. Take the sigmas from the structure model.",)
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
    """KSampler with two models."""

    DISPLAY_NAME = "Time-Decoupled KSampler"
    CATEGORY = "RapidDraw/time-decoupled"
    DESCRIPTION = (
        "KSampler with two models (PanGu-Draw): one walk from noise to picture, in which a structure model draws the layout and a "
        "texture model goes on from there. The same model twice gives the stock KSampler's picture."
    )
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The denoised latent, for the VAE that both models share.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.host import current

        host = current()
        seed = {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}
        strength = "1 starts from pure noise; less keeps the structure of the given picture. It may start below the switch."
        return {
            "required": {
                **_pair(),
                "latent_image": ("LATENT", {"tooltip": "The latent to denoise."}),
                "seed": ("INT", {**seed, "tooltip": "The seed of the noise. The same seed gives the same picture."}),
                "steps": (
                    "INT",
                    {"default": 40, "min": 1, "max": 10000, "tooltip": "Steps of the whole walk. The paper's release uses 40."},
                ),
                "structure_cfg": _cfg_input("structure"),
                "texture_cfg": _cfg_input("texture"),
                "sampler_name": (host.sampler_names(), {"tooltip": "How a step is taken. The paper's release uses euler."}),
                "scheduler": (
                    host.scheduler_names(),
                    {"tooltip": "Which noise levels the steps visit, on the structure model's schedule."},
                ),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": strength}),
                "t_struct": _switch_input(),
                "history": (["keep", "reset"], {"default": "keep", "tooltip": _HISTORY}),
            },
            "optional": _texture_conditions(),
        }

    def execute(self, latent_image: Latent, seed: int, steps: int, sampler_name: str, scheduler: str, denoise: float, history: str,
                **pair: Any) -> tuple[Latent]:  # fmt: skip
        from ..core.host import current

        walk = (latent_image, seed, steps, sampler_name, scheduler, denoise, history)
        return (current().time_decoupled_sample(_guider(**pair), *walk),)


class TimeDecoupledModel:
    """Two MODELs as one, for nodes that take a MODEL."""

    DISPLAY_NAME = "Time-Decoupled Model"
    CATEGORY = "RapidDraw/time-decoupled"
    DESCRIPTION = (
        "Joins a structure and a texture model into one MODEL (PanGu-Draw) for nodes that know no GUIDER. Both see the same prompts and "
        "guidance scale; patches of guidance on the texture model are not used. Where you can, take the Time-Decoupled KSampler."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("For any sampler. LoRAs and patches that are added to it change the structure model only.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        pair = _pair()
        return {"required": {"structure": pair["structure"], "texture": pair["texture"], "t_struct": _switch_input()}}

    def execute(self, structure: Any, texture: Any, t_struct: int) -> tuple[Any]:
        from ..core.host import current

        return (current().time_decoupled_model(structure, texture, t_struct),)


class SplitSigmasAtTimestep:
    """Cuts sigmas at a timestep."""

    DISPLAY_NAME = "Split Sigmas at Timestep"
    CATEGORY = "RapidDraw/time-decoupled"
    DESCRIPTION = (
        "Cuts a list of sigmas at the first level below a timestep of a model's schedule, for two samplers in a row: the first one adds "
        "the noise, the second one none. No level is added. A timestep is not a share of the steps: with karras, 500 is not the middle."
    )
    RETURN_TYPES = ("SIGMAS", "SIGMAS")
    RETURN_NAMES = ("high_sigmas", "low_sigmas")
    OUTPUT_TOOLTIPS = (
        "The levels from the timestep upwards and the one after them: the structure model's part. May be without a step.",
        "From that level on: the texture model's part. May be without a step.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        cut = "Where to cut. 0 puts all steps into the first part, 1000 into the second. The paper's switch of models is at 500."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model whose schedule tells the timestep's noise level."}),
                "sigmas": ("SIGMAS", {"tooltip": "The list to cut, from a scheduler node."}),
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
