"""The bridges between models of different families; started as inside.py says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inside import MODELS, WORDS, load_pack, relative, write

# isort: split
import families
import torch

ours = load_pack()
host, joint, latent = ours("core.host").current(), ours("core.bridge.joint"), ours("core.bridge.latent")
resolution, convention, noise = ours("core.bridge.resolution"), ours("core.bridge.convention"), ours("core.diffusion.noise")
metrics, side = ours("core.metrics.noise"), ours("core.bridge.side")
found: dict[str, Any] = {"zero": {}, "fused": {}, "frames": {}, "b_alone": {}, "across": {}, "noise": {}, "masked": {}}
LEVELS = {True: [0.9, 0.6, 0.3, 0.0], False: [9.0, 1.5, 0.4, 0.0]}  # inside every family's range: flow, VE
PAIRS = (("SD 1.5", "Flux"), ("Flux", "SD 1.5"), ("SDXL", "Qwen-Image"), ("Qwen-Image", "SD 1.5"), ("SD 1.5", "Z-Image"),
         ("Z-Image", "SDXL"), ("Wan 2.2", "Cosmos 1"), ("Cosmos 1", "LTX Video"), ("SD 3", "Flux 2"))  # fmt: skip


class Noise:
    """ComfyUI's RandomNoise, as its node makes it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, given: dict[str, Any]) -> Any:
        import comfy.sample

        return comfy.sample.prepare_noise(given["samples"], self.seed, given.get("batch_index"))


def one(name: str, seed: int = 0) -> Any:
    return side.Side(families.model(name, seed), families.vae(name), families.conditioning(name, 0), families.conditioning(name, 1), 2.0)


def levels(name: str) -> torch.Tensor:
    return torch.tensor(LEVELS[families.FAMILIES[name].flow])


def alone(a: Any, name: str, given: dict[str, Any], sampler: str = "euler") -> torch.Tensor:
    guider = host.sampling.make_guider(a.model, a.positive, a.negative, a.cfg)
    return host.sampling.sample_custom(guider, host.sampling.named_sampler(sampler), levels(name), given, 5)["samples"]


def both(a: Any, b: Any, name: str, fusion: Any, given: dict[str, Any], sampler: str = "euler") -> Any:
    guider = joint.LatentBridgeGuider(a, b, fusion)
    return joint.sample_bridged(guider, Noise(5), host.sampling.named_sampler(sampler), levels(name), given, None)


def partner(name: str) -> str:
    """A model of the other convention that draws as many frames."""
    family = families.FAMILIES[name]
    if family.video and family.size[1] > 1:
        return "Cosmos 1" if family.flow else "Wan 2.2"
    return "SD 1.5" if family.flow else "Flux"


def caught(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def every_family(name: str) -> None:
    a, b, given = one(name), one(partner(name)), families.latent(name)
    expected = alone(a, name, given)
    found["zero"][name] = caught(lambda: bool(torch.equal(both(a, b, name, latent.Fusion(0.0), given)[0]["samples"], expected)))

    def fused() -> Any:
        drawn = both(a, b, name, latent.Fusion(0.5, end=1.0), given)
        finite = all(bool(part["samples"].isfinite().all()) for part in drawn)
        return [finite, list(drawn[0]["samples"].shape), list(drawn[1]["samples"].shape), relative(drawn[0]["samples"], expected)]

    found["fused"][name] = caught(fused)
    if families.FAMILIES[name].video and families.FAMILIES[name].size[1] > 1:
        found["frames"][name] = caught(lambda: both(a, one("SD 1.5"), name, latent.Fusion(0.5), given) and "drawn")


def euler_of_b(pair: tuple[str, str]) -> float:
    """At strength 0 model B is what it is alone, at levels of the same signal-to-noise ratio: Euler is one method in both conventions."""
    name, a, b = pair[0], one(pair[0]), one(pair[1], 3)
    drawn = both(a, b, name, latent.Fusion(0.0), families.latent(name))[1]["samples"]
    schedules = [part.model.get_model_object("model_sampling") for part in (a, b)]
    sigmas, (level, factor) = levels(name), convention.HandOver(*schedules).at(levels(name)[0])
    own = convention.HandOver(*schedules).levels(sigmas)
    start = Noise(5 if drawn.shape == families.latent(name)["samples"].shape else 6).generate_noise({"samples": torch.zeros_like(drawn)})
    x = float(sigmas[0]) * start * (1.0 if factor is None else factor)
    guider = host.sampling.make_guider(b.model, b.positive, b.negative, b.cfg)
    given = x / level  # a flow model's noise_scaling gives level * noise, and so does a VE model's
    out = guider.sample(given, torch.zeros_like(x), host.sampling.named_sampler("euler"), own, seed=5, disable_pbar=True)
    return relative(drawn, out)


def masks(pair: tuple[str, str]) -> list[float]:
    """The kept half of a picture stays in both models, for a batch of two."""
    name, a, b = pair[0], one(pair[0]), one(pair[1])
    given = families.latent(name, batch=2, seed=4)
    given["samples"] = given["samples"] * 0.3
    rows, columns = (8 * side for side in given["samples"].shape[-2:])
    mask = torch.zeros(2, 1, rows, columns)
    mask[..., : columns // 2] = 1
    if given["samples"].ndim == 5:
        mask = mask[:1]
    second = latent.latent_for_b(a, b, {**given, "noise_mask": mask})
    drawn = both(a, b, name, latent.Fusion(0.5), {**given, "noise_mask": mask})
    half = given["samples"].shape[-1] // 2
    other = second["samples"].shape[-1] // 2
    return [float((drawn[0]["samples"] - given["samples"])[..., half + 1 :].abs().max()),
            float((drawn[0]["samples"] - given["samples"])[..., : half - 1].abs().max()),
            float((drawn[1]["samples"] - second["samples"])[..., other + 1 :].abs().max()),
            float((drawn[1]["samples"] - second["samples"])[..., : other - 1].abs().max())]  # fmt: skip


def across(pair: tuple[str, str]) -> Any:
    """All of the resolution bridge; the state in which the receiver begins has the noise of its own convention."""
    low, high = one(pair[0]), one(pair[1])
    run = ours("core.host").SamplingRun(5, 4, "euler", "normal")
    seen: list[Any] = []
    original = host.sampling.named_sampler

    def spying(model: Any, x: torch.Tensor, sigmas: torch.Tensor, **_: Any) -> torch.Tensor:
        seen.append((x.clone(), sigmas.clone()))
        return x

    host.sampling.named_sampler = lambda _: host.sampling.make_sampler(spying, {})
    try:
        big = families.latent(pair[0])
        big["samples"] = torch.zeros(*big["samples"].shape[:-2], 32, 32)
        at = noise.NoiseLevel(0.5, "share of the steps")
        resampling = ours("core.bridge.resample").Resampling(2.0)
        image = resolution.sample_across(low, high, big, run, at, resampling)[1]
    finally:
        host.sampling.named_sampler = original
    (_, above), (x, below) = seen
    schedules = [part.model.get_model_object("model_sampling") for part in (low, high)]
    conventions = [noise.convention_of(one) for one in schedules]
    frames = image.unsqueeze(0)
    clean = ours("core.bridge.frames").encode_frames(high.vae, frames)
    clean = high.model.model.process_latent_in(clean)
    sigma = below[0]
    clean_noise = (x - conventions[1].alpha(sigma) * clean) / sigma
    said = metrics.noise_statistics(x, clean, float(sigma), conventions[1])
    snr = [float(conventions[0].level(above[-1])), float(conventions[1].level(below[0]))]
    return {"mean": float(clean_noise.mean()), "std": float(clean_noise.std()), "lag": said.correlation, "said": said.std, "levels": snr,
            "cells": clean_noise.numel(), "shape": list(x.shape)}  # fmt: skip


def drawn_across(pair: tuple[str, str]) -> Any:
    low, high, run = one(pair[0]), one(pair[1]), ours("core.host").SamplingRun(5, 4, "dpmpp_2m", "normal")
    out = resolution.sample_across(low, high, families.latent(pair[0], batch=2), run, noise.NoiseLevel(0.5, "share of the steps"))
    return [bool(out[0]["samples"].isfinite().all()), list(out[0]["samples"].shape), list(out[1].shape)]


def flow_bundle() -> dict[str, Any]:
    """A flow-trained U-Net bundle is a flow model in both hosts, and both draw the same picture with it."""
    run, drawn, kinds, tables = ours("core.host").SamplingRun(5, 4, "euler", "simple"), [], [], []
    for each in (host, ours("core.host").Host("embedded")):
        model, clip, _ = each.load_bundles(*(MODELS / f"{part}.safetensors" for part in ("flow-unet", "tiny-text", "tiny-vae")))
        guider = each.sampling.make_guider(model, each.clip.encode(clip, "a red fruit"), each.clip.encode(clip, ""), 2.0)
        drawn.append(each.sampling.sample(guider, {"samples": torch.zeros(1, 4, 8, 8)}, run)["samples"])
        sampling = model.get_model_object("model_sampling")
        kinds.append(noise.convention_of(sampling) == noise.FLOW)
        tables.append(sampling.sigmas)
    return {"flow": kinds, "levels": relative(*tables), "pictures": relative(*drawn)}


def run() -> None:
    found["flow_bundle"] = flow_bundle()
    names = [name for name in families.available() if not WORDS or name in WORDS]
    for name in names:
        every_family(name)
    for pair in PAIRS:
        if not WORDS or pair[0] in WORDS:
            label = " to ".join(pair)
            found["b_alone"][label] = caught(lambda p=pair: euler_of_b(p))
            found["across"][label] = caught(lambda p=pair: drawn_across(p))
            found["noise"][label] = caught(lambda p=pair: across(p))
            found["masked"][label] = caught(lambda p=pair: masks(p))


with torch.inference_mode():
    run()
write(found)
