"""Two models in time inside a ComfyUI process, written as JSON; started as inside.py says."""

from __future__ import annotations

import gc
import traceback
import weakref
from typing import Any

from inside import MODELS, load_pack, relative, write

# isort: split
import comfy.controlnet
import comfy.hooks
import comfy.model_management as management
import comfy.samplers
import torch

import nodes

found: dict[str, Any] = {}
STEPS, CFG, SEED = 6, 3.0, 5


def conditioning(seed: int, batch: int = 1, **details: Any) -> list[list[Any]]:
    return [[torch.randn(batch, 32, 32, generator=torch.Generator().manual_seed(seed)), {"pooled_output": None, **details}]]


POSITIVE, NEGATIVE, OTHER = conditioning(1), conditioning(2), conditioning(3)
EMPTY = {"samples": torch.zeros(2, 4, 8, 8)}
FILLED = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9))}
HALF = torch.zeros(1, 1, 64, 64)
HALF[..., :32] = 1


class Bench:
    """The host under test, its models, and shorthands."""

    def __init__(self) -> None:
        self.ours = load_pack()
        self.package = self.ours("core.host")
        self.host, self.embedded = self.package.current(), self.package.Host("embedded")

    def load(self, unet: str, host: Any = None, vae: str = "tiny") -> Any:
        names = (f"{unet}-unet", "tiny-text", f"{vae}-vae")
        return (host or self.host).load_bundles(*[MODELS / f"{name}.safetensors" for name in names])[0]

    def guider(self, structure: Any, texture: Any, t_struct: int = 500, texture_conds: Any = (None, None), cfgs: Any = (CFG, CFG),
               conds: Any = (POSITIVE, NEGATIVE), host: Any = None) -> Any:  # fmt: skip
        stage = self.package.Stage
        stages = stage(structure, *conds, cfgs[0], t_struct), stage(texture, *texture_conds, cfgs[1])
        return (host or self.host).time_decoupled.make_guider(stages)

    def draw(self, structure: Any, texture: Any, latent: Any = EMPTY, name: str = "euler", denoise: float = 1.0, history: str = "keep",
             host: Any = None, **more: Any) -> torch.Tensor:  # fmt: skip
        guider = self.guider(structure, texture, host=host, **more)
        return self.run(guider, latent, name, denoise, history, host)

    def run(self, guider: Any, latent: Any = EMPTY, name: str = "euler", denoise: float = 1.0, history: str = "keep",
            host: Any = None) -> torch.Tensor:  # fmt: skip
        settings = self.package.SamplingRun(SEED, STEPS, name, "normal", denoise)
        return (host or self.host).time_decoupled.sample(guider, latent, settings, history)["samples"]


def plain(model: Any, latent: Any = EMPTY, name: str = "euler", denoise: float = 1.0, positive: Any = POSITIVE) -> torch.Tensor:
    return nodes.common_ksampler(model, SEED, STEPS, CFG, name, "normal", positive, NEGATIVE, latent, denoise)[0]["samples"]


def patched(model: Any) -> Any:
    """A clone under what a LoRA does: other weights on the same network."""
    clone = model.clone()
    key = next(key for key in clone.model_state_dict() if key.endswith("attn2.to_k.weight"))
    shape = clone.model_state_dict()[key].shape
    clone.add_patches({key: (torch.randn(shape, generator=torch.Generator().manual_seed(4)),)}, 1.0)
    return clone


def watched(model: Any, levels: list[float]) -> Any:
    """A clone that writes down the noise levels it is asked for."""
    clone = model.clone()

    def wrapper(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
        levels.extend(call["timestep"].tolist())
        return apply_model(call["input"], call["timestep"], **call["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def identities(bench: Bench) -> None:
    mine, texture = bench.load("tiny"), bench.load("eps")
    differ = [
        name for name in comfy.samplers.KSampler.SAMPLERS if not torch.equal(bench.draw(mine, mine, name=name), plain(mine, name=name))
    ]
    found["samplers"], found["samplers_that_differ"] = len(comfy.samplers.KSampler.SAMPLERS), differ
    ways = {
        "image to image": {"latent": FILLED, "denoise": 0.5},
        "masked": {"latent": {**FILLED, "noise_mask": HALF}, "denoise": 0.8},
        "picked from a batch": {"latent": {**EMPTY, "batch_index": [3, 1]}},
        "below the switch": {"latent": FILLED, "denoise": 0.2},
        "nothing to do": {"latent": FILLED, "denoise": 0.0},
        "masked ddim": {"latent": {**FILLED, "noise_mask": HALF}, "name": "ddim"},
    }
    found["ways_that_differ"] = [way for way, how in ways.items() if not torch.equal(bench.draw(mine, mine, **how), plain(mine, **how))]
    found["all_structure"] = torch.equal(bench.draw(mine, texture, t_struct=0), plain(mine))
    found["all_texture"] = torch.equal(bench.draw(mine, texture, t_struct=1000), plain(texture))
    own = bench.draw(mine, texture, t_struct=1000, texture_conds=(OTHER, NEGATIVE))
    found["own_prompt"] = torch.equal(own, plain(texture, positive=OTHER))
    kept = bench.draw(mine, texture, {**FILLED, "noise_mask": HALF}, history="reset")[..., 4:]
    found["mask_over_reset"] = relative(kept, FILLED["samples"][..., 4:])
    found["composite"] = torch.equal(plain(bench.host.time_decoupled.join(mine, texture, 500), name="heun"),
                                     bench.draw(mine, texture, name="heun"))  # fmt: skip
    found["sources_unchanged"] = torch.equal(plain(mine), bench.draw(mine, mine)) and "model_function_wrapper" not in mine.model_options
    for name in ("eps", "x0"):
        pairs = [[bench.load("tiny", host), bench.load(name, host)] for host in (bench.host, bench.embedded)]
        one, other = (bench.draw(*pair, name="dpmpp_2m", host=host) for pair, host in zip(pairs, (bench.host, bench.embedded), strict=True))
        found[f"hosts_{name}"] = relative(one, other)
    wide = bench.load("wide", vae="wide")
    found["refused"] = said_of(lambda: bench.guider(mine, wide))


def said_of(call: Any) -> str:
    try:
        call()
    except (Exception, management.InterruptProcessingException) as error:  # newer versions' is no Exception
        return f"{type(error).__name__}: {error}"
    return "accepted"


def dispatch(bench: Bench) -> None:
    """Which model is asked for which level: multi-step samplers, mixed batches, levels that rise again."""
    above: list[float] = []
    below: list[float] = []
    mine, texture = watched(bench.load("tiny"), above), watched(bench.load("eps"), below)
    switch = float(mine.get_model_object("model_sampling").sigma(torch.tensor(500.0)))
    for name in ("heun", "f_pndm", "dpm_2"):
        bench.draw(mine, texture, name=name)
        bench.draw(mine, texture, name=name, history="reset")
    found["wrong_levels"] = sum(level < switch * 0.9999 for level in above) + sum(level >= switch for level in below)
    found["levels"] = [len(above), len(below)]

    guider = bench.guider(mine, texture, conds=(conditioning(4, 2), conditioning(6, 2)))
    x, sigma = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([9.0, 0.2, 0.4, 5.0])
    answers: list[torch.Tensor] = []

    def ask(model: Any, start: torch.Tensor, sigmas: torch.Tensor, extra_args: Any = None, **_: Any) -> torch.Tensor:
        above.clear(), below.clear()
        answers.append(model(x, sigma, **extra_args))
        found["mixed_levels"] = [sorted(set(above)), sorted(set(below))]
        for i in range(0, 4, 2):
            answers.append(torch.cat([model(x[i : i + 2], sigma[i : i + 1].expand(2), **extra_args)[:1],
                                      model(x[i : i + 2], sigma[i + 1 : i + 2].expand(2), **extra_args)[1:]]))  # fmt: skip
        return start

    guider.sample(torch.zeros(2, 4, 8, 8), FILLED["samples"], comfy.samplers.KSAMPLER(ask), torch.tensor([9.0, 0.0]))
    found["mixed_batch"] = relative(answers[0], torch.cat(answers[1:]))


def loading(bench: Bench) -> None:
    """When ComfyUI is asked to load which model, in evaluations done before."""
    levels: list[float] = []
    mine, texture = bench.load("tiny"), bench.load("eps")
    one, other = watched(mine, levels), watched(texture, levels)
    management.unload_all_models()
    loads: list[tuple[str, int]] = []
    real = management.load_models_gpu

    def spy(models: Any, *args: Any, **kwargs: Any) -> Any:
        names = {id(mine.model): "structure", id(texture.model): "texture"}
        loads.extend((names.get(id(model.model), "other"), len(levels)) for model in models)
        return real(models, *args, **kwargs)

    management.load_models_gpu = spy
    try:
        composite = bench.host.time_decoupled.join(one, other, 500)
        ways = {
            "guider": lambda: bench.draw(one, other),
            "composite": lambda: plain(composite),
            "not reached": lambda: bench.draw(one, other, t_struct=0),
            "below": lambda: bench.draw(one, other, FILLED, denoise=0.2),
            "all texture": lambda: bench.draw(one, other, t_struct=1000),
        }
        for way, run in ways.items():
            management.unload_all_models()
            levels.clear(), loads.clear()
            run()
            found[f"loads {way}"] = list(loads)
    finally:
        management.load_models_gpu = real
    sigmas = comfy.samplers.KSampler(mine, STEPS, mine.load_device, "euler", "normal").sigmas
    switch = float(mine.get_model_object("model_sampling").sigma(torch.tensor(500.0)))
    found["evaluations_above"] = 4 * int((sigmas >= switch * 0.9999).sum())  # two prompts, two pictures


def shared_weights(bench: Bench) -> None:
    """Two patched clones of one network against the same two as networks of their own."""
    base, twin = bench.load("tiny"), bench.load("tiny")
    clone, apart = patched(base), patched(twin)
    found["clones_differ"] = relative(plain(clone), plain(base))
    found["clone_all_structure"] = torch.equal(bench.draw(base, clone, t_struct=0), plain(base))
    found["clone_all_texture"] = torch.equal(bench.draw(base, clone, t_struct=1000), plain(clone))
    found["clone_mixed"] = relative(bench.draw(base, clone), bench.draw(base, apart))
    found["clone_mixed_again"] = relative(bench.draw(clone, base), bench.draw(apart, base))
    found["clone_composite"] = relative(plain(bench.host.time_decoupled.join(base, clone, 500)), bench.draw(base, apart))

    def there_and_back(model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any = None, **_: Any) -> torch.Tensor:
        for level in (9.0, 0.5, 6.0, 0.2):
            sigma = x.new_full((len(x),), level)
            x = x + (x - model(x, sigma, **extra_args)) / level * -0.1
        return x

    def walk(structure: Any, texture: Any) -> torch.Tensor:
        sampler = comfy.samplers.KSAMPLER(there_and_back)
        return bench.guider(structure, texture).sample(FILLED["samples"], FILLED["samples"], sampler, torch.tensor([9.0, 0.0]), seed=1)

    found["clone_there_and_back"] = relative(walk(base, clone), walk(base, apart))
    composite = [bench.host.time_decoupled.join(base, other, 500) for other in (clone, apart)]
    guiders = [comfy.samplers.CFGGuider(model) for model in composite]
    for guider in guiders:
        guider.set_conds(POSITIVE, NEGATIVE)
    walks = [
        g.sample(FILLED["samples"], FILLED["samples"], comfy.samplers.KSAMPLER(there_and_back), torch.tensor([9.0, 0.0])) for g in guiders
    ]
    found["composite_there_and_back"] = relative(*walks)
    found["weights_restored"] = torch.equal(plain(base), plain(twin))


def patches(bench: Bench) -> None:
    """A patch, a hook and guidance of one model stay that model's."""
    mine, texture = bench.load("tiny"), bench.load("eps")
    calls: list[int] = []
    touched = texture.clone()
    touched.set_model_input_block_patch(lambda h, options: (calls.append(1), h)[1])
    bench.draw(mine, touched, t_struct=0)
    found["patch_calls_structure_only"] = len(calls)
    bench.draw(mine, touched)
    found["patch_calls_guider"] = len(calls)
    calls.clear()
    plain(bench.host.time_decoupled.join(mine, touched, 500))
    found["patch_calls_composite"] = len(calls)
    calls.clear()
    plain(touched)
    found["patch_calls_alone"] = len(calls)

    weight = next(key for key in mine.model_state_dict() if key.endswith("attn2.to_k.weight"))
    shape = mine.model_state_dict()[weight].shape
    hooks = comfy.hooks.HookGroup()
    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=0.0)
    hook.need_weight_init = False
    hook.weights = {weight: (torch.randn(shape, generator=torch.Generator().manual_seed(8)),)}
    hooks.add(hook)
    hooked = conditioning(1, hooks=hooks)
    stock = plain(mine, positive=hooked)
    found["hook_matters"] = relative(stock, plain(mine))
    found["hooks_identity"] = torch.equal(bench.draw(mine, mine, conds=(hooked, NEGATIVE)), stock)
    found["hooks_of_texture"] = torch.equal(bench.draw(texture, mine, t_struct=1000, texture_conds=(hooked, NEGATIVE)), stock)
    found["hooks_gone"] = torch.equal(bench.draw(mine, mine), plain(mine))


class Control(comfy.controlnet.ControlBase):
    """A ControlNet for U-Nets whose middle has 64 channels: adds a constant there, and writes down the noise levels it was asked for."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain, self.levels = gain, []

    def get_control(self, x_noisy: torch.Tensor, t: torch.Tensor, *_: Any, **__: Any) -> dict[str, list[torch.Tensor]]:
        self.levels.append(float(t.max()))
        batch, _, height, width = x_noisy.shape
        return {"input": [], "output": [], "middle": [torch.full((batch, 64, height // 2, width // 2), self.gain)]}


def controlled(gain: float, seed: int = 1) -> tuple[Control, list[list[Any]]]:
    control = Control(gain)
    return control, conditioning(seed, control=control, control_apply_to_uncond=True)


def controls(bench: Bench) -> None:
    """A ControlNet acts on the models of its architecture, each model's own on that model alone."""
    mine, texture, other = bench.load("tiny"), bench.load("eps"), bench.load("x0")
    control, steered = controlled(2.0)
    stock = plain(mine, positive=steered)
    asked = len(control.levels)
    found["control_matters"] = relative(stock, plain(mine))
    control.levels.clear()
    found["control_identity"] = [torch.equal(bench.draw(mine, mine, conds=(steered, NEGATIVE)), stock), len(control.levels) == asked]
    switch = float(mine.get_model_object("model_sampling").sigma(torch.tensor(500.0)))
    control.levels.clear()
    drawn = bench.draw(mine, other, conds=(steered, NEGATIVE))
    found["control_levels"] = [len(control.levels) > 0, max([0.0, *(s for s in control.levels if s < switch * 0.9999)])]
    found["control_kept_from_texture"] = relative(plain(bench.host.time_decoupled.join(mine, other, 500), positive=steered), drawn)
    own, own_steered = controlled(2.0, 3)
    control.levels.clear()
    bench.draw(mine, texture, conds=(steered, NEGATIVE), texture_conds=(own_steered, NEGATIVE))
    found["own_controls"] = [min(control.levels) >= switch * 0.9999, max(own.levels) < switch]
    found["control_of_texture"] = torch.equal(
        bench.draw(other, mine, t_struct=1000, texture_conds=(steered, NEGATIVE)), plain(mine, positive=steered)
    )
    found["control_left"] = control.timestep_range is None and own.timestep_range is None


def interrupts(bench: Bench) -> None:
    """A stop in either stage leaves models, options and guider as they were."""
    mine, texture = bench.load("tiny"), bench.load("eps")
    expected = bench.draw(mine, texture)
    for stage in (0, 1):
        pair, stop = [mine, texture], [True]

        def wrapper(apply_model: Any, call: dict[str, Any], stop: list[bool] = stop) -> torch.Tensor:
            if stop[0]:
                raise management.InterruptProcessingException
            return apply_model(call["input"], call["timestep"], **call["c"])

        pair[stage] = pair[stage].clone()
        pair[stage].set_model_unet_function_wrapper(wrapper)
        guider = bench.guider(*pair)
        said = said_of(lambda guider=guider: bench.run(guider))
        clean = mine.model.current_patcher is None and texture.model.current_patcher is None
        same = guider.model_options is pair[0].model_options and guider.guests[0].model_options is pair[1].model_options
        stop[0] = False
        again = torch.equal(bench.run(guider), expected)
        found[f"stopped_{stage}"] = [said.split(":")[0], clean, same, again, torch.equal(bench.draw(mine, texture), expected)]


def style(bench: Bench) -> None:
    mine, levels = bench.load("tiny"), []
    seen = watched(mine, levels)
    stock = plain(seen)
    cost = len(levels)
    host = bench.host
    levels.clear()
    found["style_0"] = [torch.equal(plain(host.style.guide(seen, OTHER, 0.0, 0.0, 1.0)), stock), len(levels) == cost]
    levels.clear()
    found["style_never"] = [torch.equal(plain(host.style.guide(seen, OTHER, 3.0, 0.0, 0.0)), stock), len(levels) == cost]
    levels.clear()
    found["style_matters"] = relative(plain(host.style.guide(seen, OTHER, 3.0, 0.0, 1.0)), stock)
    found["style_cost"] = len(levels) / cost
    twice = host.style.guide(host.style.guide(mine, OTHER, 1.0, 0.0, 1.0), OTHER, 2.0, 0.0, 1.0)
    found["styles_add_up"] = relative(plain(twice), plain(host.style.guide(mine, OTHER, 3.0, 0.0, 1.0)))
    found["style_source"] = torch.equal(plain(mine), stock)
    ways = {}
    for host in (bench.host, bench.embedded):
        model = host.style.guide(bench.load("tiny", host), OTHER, 3.0, 0.2, 0.8)
        ways[host.name] = host.sampling.sample(
            host.sampling.make_guider(model, POSITIVE, NEGATIVE, CFG), EMPTY, bench.package.SamplingRun(SEED, STEPS, "euler", "normal")
        )["samples"]
    found["style_hosts"] = relative(ways["comfy"], ways["embedded"])


def lifetime(bench: Bench) -> None:
    """Nothing keeps a pair alive once its nodes' outputs are gone."""
    mine, texture = bench.load("tiny"), bench.load("eps")
    guider, composite = bench.guider(mine, texture), bench.host.time_decoupled.join(mine, texture, 500)
    bench.run(guider)
    plain(composite)
    alive = [weakref.ref(mine.model), weakref.ref(texture.model)]
    management.unload_all_models()
    del mine, texture, guider, composite
    management.cleanup_models_gc()
    gc.collect()
    found["still_alive"] = sum(one() is not None for one in alive)


with torch.inference_mode():
    bench = Bench()
    for part in (identities, dispatch, loading, shared_weights, patches, controls, interrupts, style, lifetime):
        try:
            part(bench)
        except Exception as error:
            found[f"failed {part.__name__}"] = "".join(traceback.format_exception(error))
write(found)
