"""Two experts of any family in one run against ComfyUI's own two samplers, and noise levels on every sampling class; see inside.py."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from inside import load_pack, relative, write

# isort: split
import comfy.model_management as management
import comfy.model_sampling as kinds
import families
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

import nodes

ours = load_pack()
noise, host = ours("core.diffusion.noise"), ours("core.host")
KSampler, Advanced = nodes.NODE_CLASS_MAPPINGS["RapidDrawTimeDecoupledSampler"], nodes.KSamplerAdvanced
SEED, STEPS, CFG = 5, 10, 2.5
found: dict[str, Any] = {"wan": {}, "families": {}, "classes": {}, "mixing": {}, "memory": {}, "refusals": {}}


class Lines(logging.Handler):
    """Keeps the lines that the pack logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        logging.getLogger("rapiddraw").addHandler(self)
        logging.getLogger("rapiddraw").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


lines = Lines()


def two_samplers(pair: Any, prompts: Any, latent: Any, steps: int, split: int) -> torch.Tensor:
    """The stock way: KSamplerAdvanced with leftover noise, then one that adds none."""
    given = ("euler", "simple", *prompts)
    half = Advanced().sample(pair[0], "enable", SEED, steps, CFG, *given, latent, 0, split, "enable")[0]
    return Advanced().sample(pair[1], "disable", SEED, steps, CFG, *given, half, split, 10000, "disable")[0]["samples"]


def one_sampler(pair: Any, prompts: Any, latent: Any, steps: int, **switch: Any) -> torch.Tensor:
    return KSampler().execute(
        structure=pair[0], texture=pair[1], positive=prompts[0], negative=prompts[1], latent_image=latent, seed=SEED, steps=steps,
        structure_cfg=CFG, texture_cfg=CFG, sampler_name="euler", scheduler="simple", denoise=1.0, history="keep",
        **{"t_struct": 500, **switch},
    )[0]["samples"]  # fmt: skip


def sigmas_of(model: Any, steps: int) -> torch.Tensor:
    return host.current().sampling.calculate_sigmas(model, "simple", steps)


def wan() -> None:
    """A pair in Wan 2.2's shape at its published boundaries, given as model timesteps, over the shifts in use."""
    for name, boundary in (("Wan 2.2", 875), ("Wan 2.2 image", 900)):
        plain = [families.model(name, seed) for seed in (1, 2)]
        prompts, latent = [families.conditioning(name, seed) for seed in (0, 1)], families.latent(name)
        for shift in (3.0, 5.0, 8.0, 12.0):
            pair = [ModelSamplingSD3().patch(model, shift)[0] for model in plain]
            for steps in (4, 20):
                split = int((sigmas_of(pair[0], steps) >= boundary / 1000 - 1e-6).sum())  # at shift 3 a step meets 0.875, but for rounding
                lines.lines.clear()
                drawn = one_sampler(pair, prompts, latent, steps, switch_as="model timestep", switch_at=float(boundary))
                stock = two_samplers(pair, prompts, latent, steps, split)
                found["wan"][f"{shift:g} {boundary} {steps}"] = [relative(drawn, stock), split, list(lines.lines)]


def memory() -> None:
    """Which of the pair ComfyUI holds loaded when the second model is asked, with and without `free_memory`."""
    loaded: list[list[str]] = []
    pair = [families.model("Wan 2.2", seed) for seed in (1, 2)]
    names = {id(model.model): name for model, name in zip(pair, ("structure", "texture"), strict=True)}

    def wrapper(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
        held = [one.model for one in management.current_loaded_models if one.model is not None]
        loaded.append(sorted(names[id(one.model)] for one in held if id(one.model) in names))
        return apply_model(call["input"], call["timestep"], **call["c"])

    watched = pair[1].clone()
    watched.set_model_unet_function_wrapper(wrapper)
    prompts, latent = [families.conditioning("Wan 2.2", seed) for seed in (0, 1)], families.latent("Wan 2.2")
    for free in (False, True):
        management.unload_all_models()
        loaded.clear()
        drawn = one_sampler([pair[0], watched], prompts, latent, 4, switch_as="step", switch_at=2, free_memory=free)
        found["memory"][str(free)] = [loaded[0], float(drawn.abs().sum())]


def refusals() -> None:
    """Pairs that one conditioning cannot serve, as one MODEL."""
    join = nodes.NODE_CLASS_MAPPINGS["RapidDrawTimeDecoupledModel"]()
    for one, other in (("Wan 2.2", "Wan 2.2 image"), ("Flux", "Z-Image"), ("SD 1.5", "SD 1.5 inpainting"), ("SD 1.5", "SD 3")):
        try:
            join.execute(families.model(one), families.model(other), 500)
            found["refusals"][f"{one} with {other}"] = ""
        except ours("core.errors").InputError as error:
            found["refusals"][f"{one} with {other}"] = str(error)


def every_family() -> None:
    for name in families.available():
        try:
            found["families"][name] = family(name)
        except Exception as error:
            found["families"][name] = {"failed": "".join(traceback.format_exception(error))}


def family(name: str) -> dict[str, Any]:
    """The same model twice against the stock sampler, and two models against two samplers, the switch in every unit."""
    pair = [families.model(name, seed) for seed in (1, 2)]
    prompts, latent = [families.conditioning(name, seed) for seed in (0, 1)], families.latent(name)
    stock = nodes.common_ksampler(pair[0], SEED, 4, CFG, "euler", "simple", *prompts, latent)[0]["samples"]
    same = one_sampler([pair[0], pair[0]], prompts, latent, 4, switch_as="step", switch_at=2)
    sigmas, sampling = sigmas_of(pair[0], 4), pair[0].get_model_object("model_sampling")
    between = float(sigmas[1] * sigmas[2]) ** 0.5
    two = two_samplers(pair, prompts, latent, 4, 2)
    timestep = float(sampling.timestep(torch.tensor([between]))[0])
    switches = {"step": 2, "share of the steps": 0.5, "sigma": between, "model timestep": timestep}
    out = {"same": torch.equal(same, stock), "spread": relative(two, stock)}
    for unit, value in switches.items():
        try:
            out[unit] = relative(one_sampler(pair, prompts, latent, 4, switch_as=unit, switch_at=value), two)
        except ours("core.errors").InputError as error:
            out[unit] = str(error)
    try:
        one_sampler(pair, prompts, latent, 4, t_struct=500)
        out["timestep"] = float(noise.NoiseLevel(500).on(sampling))
    except ours("core.errors").InputError as error:
        out["timestep"] = str(error)
    join = nodes.NODE_CLASS_MAPPINGS["RapidDrawTimeDecoupledModel"]().execute(*pair, 500, "step", 2)[0]
    out["composite"] = relative(nodes.common_ksampler(join, SEED, 4, CFG, "euler", "simple", *prompts, latent)[0]["samples"], two)
    return out


def classes() -> None:
    """Each schedule of ComfyUI with each way of mixing noise: what the module says against what the classes do."""
    modules = [kind for kind in vars(kinds).values() if isinstance(kind, type)]
    schedules = [kind for kind in modules if issubclass(kind, torch.nn.Module) and hasattr(kind, "timestep")]
    mixes = [kind for kind in modules if hasattr(kind, "noise_scaling") and not issubclass(kind, torch.nn.Module)]
    for schedule in schedules:
        for parameters in [{}, *([{"shift": 3.0, "multiplier": 1}, {"shift": 8.0}] if "DiscreteFlow" in schedule.__name__ else [])]:
            made = schedule()
            if parameters:
                made.set_parameters(**parameters)
            found["classes"][f"{schedule.__name__} {parameters}"] = inverted(made)
    for mix in mixes:
        kind = type(mix.__name__, (mix, kinds.ModelSamplingDiscreteFlow), {})
        found["mixing"][mix.__name__] = mixed(kind())


def inverted(sampling: Any) -> list[Any]:
    """The largest relative difference of a level from the level of its timestep, over the table; or why there is none."""
    sigmas = sampling.sigmas
    places = torch.linspace(0, len(sigmas) - 1, 40).long()
    worst = 0.0
    for place in places.tolist():
        sigma = float(sigmas[place])
        try:
            level = noise.sigma_of_timestep(sampling, float(sampling.timestep(sigmas[place].double().reshape(1))[0]))
        except ours("core.errors").InputError as error:
            return [str(error)]
        first = float(sampling.timestep(sigmas[:1].double())[0])
        if level or first < 0 or place:
            worst = max(worst, abs(level - sigma) / sigma)
    return [worst, float(sigmas[0]), float(sigmas[-1])]


def mixed(sampling: Any) -> list[float]:
    """How far states in the common form are from x0 + level * noise, for levels of the model's own."""
    convention = noise.convention_of(sampling)
    clean, unit = torch.randn(1, 4, 3, 5, 5), torch.randn(1, 4, 3, 5, 5)
    worst = 0.0
    for sigma in (0.05, 0.3, 0.9):
        level = torch.tensor([sigma])
        common = convention.to_common(sampling.noise_scaling(level, unit.clone(), clean), level)
        worst = max(worst, relative(common, clean + convention.level(sigma) * unit))
    return [float(convention.flow), worst]


with torch.inference_mode():
    for part in (wan, memory, refusals, every_family, classes):
        try:
            part()
        except Exception as error:
            found[f"failed {part.__name__}"] = "".join(traceback.format_exception(error))
write(found)
