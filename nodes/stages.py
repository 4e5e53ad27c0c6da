"""Inputs that the time-decoupled nodes share: the stages of a run, the switch between them, and the part of the run that is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_STRUCTURE = "The model for the layout, at high noise levels. The steps and the timestep of the switch follow its noise schedule."
_TEXTURE = (
    "The model for the details, at low noise levels. It must share the structure model's latent space and VAE; its prediction (eps, v or "
    "x0) and its schedule may differ. It is loaded when its turn comes."
)


def switch_input() -> tuple[str, dict[str, Any]]:
    tooltip = (
        "Timestep of the switch, on the structure model's schedule, from 999 (noise) to 0 (picture). The structure model draws from this "
        "timestep upwards, the texture model below it; higher gives the texture model more of the work. 0: structure model alone. 1000: "
        "texture model alone. PanGu-Draw's value is 500 (section 5.3)."
    )
    return ("INT", {"default": 500, "min": 0, "max": 1000, "tooltip": tooltip})


def switch_options() -> dict[str, Any]:
    """Return the optional inputs that say what the number of the switch means."""
    kinds = ["timestep", "model timestep", "sigma", "share of the steps", "step"]
    meaning = (
        "What the number of the switch is. timestep: the timestep input, for flow models before the shift. The others use switch_at. "
        "model timestep: as the network is shown it and Wan 2.2 publishes its boundary; most models count to 1000, but Flux, Qwen-Image "
        "and Z-Image to 1. sigma: the noise level. share of the steps: 0 to 1. step: the first step of the second model, as "
        "KSamplerAdvanced counts."
    )
    number = (
        "The switch in the unit of switch_as; not used with timestep. The first model draws from here upwards. Wan 2.2 as model timestep: "
        "875 for text to video, 900 for image to video."
    )
    at = {"default": 0.5, "min": 0.0, "max": 10000.0, "step": 0.001, "round": False}
    return {
        "switch_as": (kinds, {"default": "timestep", "tooltip": meaning}),
        "switch_at": ("FLOAT", {**at, "tooltip": number}),
    }


def level_of(timestep: int, switch_as: str, switch_at: float) -> Any:
    """Return the switch as the hosts take it: a timestep, or a noise level in another unit."""
    from ..core.diffusion.noise import NoiseLevel

    if switch_as == "timestep":
        return timestep
    return NoiseLevel(int(switch_at) if switch_as == "step" and switch_at == int(switch_at) else switch_at, switch_as)


def cfg_input(whose: str) -> tuple[str, dict[str, Any]]:
    tooltip = (
        f"Guidance scale of the {whose} model, 0 to 100. Higher follows the prompt more closely; 1 switches guidance off. "
        "PanGu-Draw uses 2 and 9 in Tables 1 and 2, and 6 in its released code."
    )
    return ("FLOAT", {"default": 6.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": tooltip})


def pair() -> dict[str, Any]:
    return {
        "structure": ("MODEL", {"tooltip": _STRUCTURE}),
        "texture": ("MODEL", {"tooltip": _TEXTURE}),
        "positive": (
            "CONDITIONING",
            {"tooltip": "What the picture should show. A ControlNet here also acts on a texture model of the same architecture."},
        ),
        "negative": ("CONDITIONING", {"tooltip": "What the picture should not show."}),
    }


def chainable_pair() -> dict[str, Any]:
    """Return the inputs of a pair whose structure may be a guider, the stages before this one."""
    chained = (
        f"{_STRUCTURE} A guider of this pack, or a CFGGuider, may stand here instead: its stages draw first, with their own prompts and "
        "guidance, and positive and negative are then the texture model's."
    )
    return {**pair(), "structure": ("MODEL,GUIDER", {"tooltip": chained})}


def texture_inputs() -> dict[str, Any]:
    same = "Without it, the structure model's is used. Needed where the texture model has another text encoder."
    return {
        "texture_positive": ("CONDITIONING", {"tooltip": f"The texture model's own prompt. {same}"}),
        "texture_negative": ("CONDITIONING", {"tooltip": f"The texture model's own negative prompt. {same}"}),
        **switch_options(),
        "texture_sigmas": (
            "SIGMAS",
            {
                "tooltip": "The texture model's own noise levels, from a scheduler node on that model, for example for a speed LoRA. Those "
                "below the hand-over are used. Without it, the run's own are."
            },
        ),
        "free_memory": (
            "BOOLEAN",
            {
                "default": False,
                "tooltip": "Takes the structure model off the graphics card when the texture model takes over. Off: ComfyUI does so where "
                "memory is short. The headless host keeps all models.",
            },
        ),
    }


def make_guider(structure: Any, texture: Any, positive: Any, negative: Any, structure_cfg: float, texture_cfg: float, t_struct: int,
            texture_positive: Any = None, texture_negative: Any = None, switch_as: str = "timestep", switch_at: float = 0.5,
            texture_sigmas: Tensor | None = None, free_memory: bool = False) -> Any:  # fmt: skip
    from ..core.host import Stage, current

    level = level_of(t_struct, switch_as, switch_at)
    first = Stage(structure, positive, negative, structure_cfg, level, free=free_memory)
    last = Stage(texture, texture_positive, texture_negative, texture_cfg, sigmas=texture_sigmas)
    return current().time_decoupled.make_guider((first, last))


def part_of_run() -> dict[str, Any]:
    """Return KSamplerAdvanced's inputs for a part of the steps, with its names."""
    step = {"min": 0, "max": 10000, "advanced": True}
    return {
        "add_noise": (
            ["enable", "disable"],
            {"default": "enable", "advanced": True, "tooltip": "disable: go on from a latent that has noise left, from another sampler."},
        ),
        "start_at_step": ("INT", {"default": 0, **step, "tooltip": "The first step that is taken, counted from 0 over the whole run."}),
        "end_at_step": ("INT", {"default": 10000, **step, "tooltip": "The step before which to stop. 10000: draw to the end."}),
        "return_with_leftover_noise": (
            ["disable", "enable"],
            {
                "default": "disable",
                "advanced": True,
                "tooltip": "enable: where end_at_step stops early, leave the noise of that step in the latent for another sampler.",
            },
        ),
    }
