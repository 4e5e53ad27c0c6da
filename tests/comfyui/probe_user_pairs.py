"""Two checkpoints of a user's own together inside a ComfyUI process, in both hosts; started as inside.py says.

MODELS holds narrow files of SD 1.5 (`sd15`, `other`), SDXL (`sdxl`) and its refiner (`refiner`). They are too
narrow for the stock loader to recognise and are handed to ComfyUI's own classes directly. Prompts are encoded once, for both hosts.
"""

from __future__ import annotations

import traceback
from typing import Any

from inside import MODELS, load_pack, relative, write

# isort: split
import comfy.model_detection
import comfy.model_patcher
import comfy.sample
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch

import nodes

FAMILIES = {
    "sd15": comfy.supported_models.SD15, "other": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL,
    "refiner": comfy.supported_models.SDXLRefiner,
}  # fmt: skip
EMPTY = {"samples": torch.zeros(2, 4, 8, 6)}
SEED, STEPS, CFG = 5, 4, 3.0
ASKING = ("joint", "latent", "resample", "resolution", "side")
"""Modules of the bridge that ask for the current host."""
found: dict[str, Any] = {}


def said_of(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def native(name: str) -> tuple[Any, Any]:
    """ComfyUI's MODEL and VAE from a narrow file, as `load_state_dict_guess_config` makes them."""
    tensors = comfy.utils.load_torch_file(str(MODELS / f"{name}.safetensors"))
    prefix = "model.diffusion_model."
    config = FAMILIES[name](comfy.model_detection.detect_unet_config(tensors, prefix))
    config.set_inference_dtype(torch.float32, None)
    vae = comfy.sd.VAE(sd=config.process_vae_state_dict(comfy.utils.state_dict_prefix_replace(tensors, {"first_stage_model.": ""}, True)))
    model = config.get_model(tensors, prefix)
    model.load_model_weights(dict(tensors), prefix)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu), vae


class World:
    """The two hosts, what each loaded, and the prompts by checkpoint: (positive, negative)."""

    def __init__(self) -> None:
        self.ours = load_pack()
        self.package = self.ours("core.host")
        self.comfy, self.embedded = self.package.current(), self.package.Host("embedded")
        load = self.ours("core.host.embedded.checkpoint").load_checkpoint
        self.parts: dict[Any, dict[str, tuple[Any, Any]]] = {self.comfy: {}, self.embedded: {}}
        self.prompts: dict[str, tuple[Any, Any]] = {}
        for name in FAMILIES:
            model, clip, vae = load(MODELS / f"{name}.safetensors", torch.device("cpu"))
            self.parts[self.embedded][name], self.parts[self.comfy][name] = (model, vae), native(name)
            texts = ("a (round:1.2) red fruit", "")
            self.prompts[name] = tuple(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts)  # type: ignore[assignment]

    def plain(self, name: str, sampler: str) -> torch.Tensor:
        given = (self.parts[self.comfy][name][0], SEED, STEPS, CFG, sampler, "normal", *self.prompts[name], EMPTY)
        return nodes.common_ksampler(*given, 1.0)[0]["samples"]

    def pair(self, host: Any, one: str, other: str, sampler: str, t_struct: int = 500, history: str = "keep") -> torch.Tensor:
        models = [self.parts[host][name][0] for name in (one, other)]
        stage = self.package.Stage
        guider = host.time_decoupled.make_guider(
            [stage(models[0], *self.prompts[one], CFG, t_struct), stage(models[1], *self.prompts[other], CFG)]
        )
        return host.time_decoupled.sample(guider, EMPTY, self.package.SamplingRun(SEED, STEPS, sampler, "normal"), history)["samples"]

    def bridged(self, host: Any, one: str, other: str, sampler: str, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents of both, with `host` as the current one."""
        latent, joint = self.ours("core.bridge.latent"), self.ours("core.bridge.joint")
        asking = [module for name in ASKING if hasattr(module := self.ours(f"core.bridge.{name}"), "current")]
        for module in asking:
            module.current = lambda: host
        try:
            sides = [latent.Side(*self.parts[host][name], *self.prompts[name], CFG) for name in (one, other)]
            guider = joint.LatentBridgeGuider(*sides, latent.Fusion(strength, end=1.0))
            sigmas = host.sampling.calculate_sigmas(sides[0].model, "normal", STEPS)
            drawn = joint.sample_bridged(guider, _Noise(), host.sampling.named_sampler(sampler), sigmas, EMPTY, None)
        finally:
            for module in asking:
                module.current = self.package.current
        return drawn[0]["samples"], drawn[1]["samples"]


class _Noise:
    """ComfyUI's RandomNoise, as its node makes it."""

    seed = SEED

    def generate_noise(self, latent: dict[str, Any]) -> Any:
        return comfy.sample.prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))


def in_time(world: World) -> None:
    for one, other in (("sd15", "other"), ("sdxl", "refiner")):
        key = f"{one} {other}"
        ways = ("euler", "dpmpp_2m")
        hosts = world.comfy, world.embedded
        found[f"hosts {key}"] = [relative(*(world.pair(host, one, other, way) for host in hosts)) for way in ways]
        found[f"ends {key}"] = [
            torch.equal(world.pair(world.comfy, one, other, sampler, t_struct), world.plain(name, sampler))
            for sampler in ("euler", "dpmpp_2m", "heun", "uni_pc", "dpmpp_2m_sde")
            for t_struct, name in ((0, one), (1000, other))
        ]
        found[f"differs {key}"] = relative(world.pair(world.comfy, one, other, "euler"), world.plain(one, "euler"))
    samplers = comfy.samplers.KSampler.SAMPLERS
    wrong = [name for name in samplers if not world.pair(world.comfy, "sdxl", "refiner", name).isfinite().all()]
    found["samplers"], found["not finite"] = len(samplers), wrong
    for host in (world.comfy, world.embedded):
        models = {name: parts[0] for name, parts in world.parts[host].items()}
        found[f"refused {host.name}"] = said_of(lambda host=host: world.pair(host, "sd15", "sdxl", "euler"))
        found[f"one prompt {host.name}"] = said_of(lambda h=host, m=models: h.time_decoupled.join(m["sdxl"], m["refiner"], 500))


def across(world: World) -> None:
    for one, other in (("sd15", "sdxl"), ("sdxl", "sd15")):
        both = [world.bridged(host, one, other, "dpmpp_2m", 0.5) for host in (world.comfy, world.embedded)]
        found[f"bridge {one} {other}"] = [relative(*parts) for parts in zip(*both, strict=True)]
        apart = world.bridged(world.comfy, one, other, "dpmpp_2m", 0.0)
        plain = [world.plain(name, "dpmpp_2m") for name in (one, other)]
        found[f"apart {one} {other}"] = [torch.equal(*parts) for parts in zip(apart, plain, strict=True)]
        found[f"moved {one} {other}"] = relative(both[0][0], apart[0])


with torch.inference_mode():
    world = World()
    for part in (in_time, across):
        try:
            part(world)
        except Exception as error:
            found[f"failed {part.__name__}"] = "".join(traceback.format_exception(error))
write(found)
