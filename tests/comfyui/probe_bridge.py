"""The bridges' identities inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

from typing import Any

from inside import MODELS, load_pack, write

# isort: split
import comfy.controlnet
import comfy.model_management as management
import comfy.samplers
import torch

found: dict[str, Any] = {"failed": {}}
CFG_PLUS = "cfg++"


def run() -> None:
    ours = load_pack()

    host, joint, latent = ours("core.host").current(), ours("core.bridge.joint"), ours("core.bridge.latent")
    sides = []
    for name, text in (("tiny", "a round red fruit"), ("wide", "a tall blue fruit")):
        files = [MODELS / f"{part}.safetensors" for part in (f"{name}-unet", "tiny-text", f"{name}-vae")]
        model, clip, vae = host.load_bundles(*files)
        sides.append(latent.Side(model, vae, host.clip.encode(clip, text), host.clip.encode(clip, ""), 3.0))
    a, b = sides
    steps = 3
    sigmas = host.sampling.calculate_sigmas(a.model, "normal", steps)
    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    noise = _Noise(5)

    def both(fusion: Any, name: str, one: Any = a, two: Any = b) -> Any:
        guider = joint.LatentBridgeGuider(one, two, fusion)
        return joint.sample_bridged(guider, noise, host.sampling.named_sampler(name), sigmas, empty, None)

    def alone(name: str) -> Any:
        return host.sampling.sample_custom(
            host.sampling.make_guider(a.model, a.positive, a.negative, 3.0), host.sampling.named_sampler(name), sigmas, empty, 5
        )["samples"]

    decoded: list[int] = []
    original = host.vae.decode
    host.vae.decode = lambda *rest: decoded.append(1) or original(*rest)
    found["strength_0"] = {name: bool(torch.equal(both(latent.Fusion(0.0), name)[0]["samples"], alone(name))) for name in
                           ("euler", "heun", "dpmpp_2m", "uni_pc", "ipndm", "lms")}  # fmt: skip
    found["strength_0_decoded"] = len(decoded)
    host.vae.decode = original
    samplers = {}
    for name in comfy.samplers.KSampler.SAMPLERS:
        try:
            one, two = both(latent.Fusion(0.5), name)
            samplers[name] = bool(one["samples"].isfinite().all() and two["samples"].isfinite().all()) and [
                *one["samples"].shape,
                *two["samples"].shape,
            ]
        except Exception as error:
            samplers[name] = f"{type(error).__name__}: {error}"
    found["samplers"] = samplers
    clone = a.model.clone()  # the same network with other weights: the two displace each other
    key = next(key for key in clone.model_state_dict() if key.endswith("attn2.to_k.weight"))
    clone.add_patches({key: (torch.randn(clone.model_state_dict()[key].shape, generator=torch.Generator().manual_seed(0)),)}, 1.0)
    patched = latent.Side(clone, a.vae, a.positive, a.negative, 3.0)
    one, two = both(latent.Fusion(0.0), "euler", a, patched)
    plain = host.sampling.sample_custom(
        host.sampling.make_guider(clone, a.positive, a.negative, 3.0), host.sampling.named_sampler("euler"), sigmas, empty, 5
    )["samples"]
    found["clones"] = [bool(torch.equal(one["samples"], alone("euler"))), bool(torch.equal(two["samples"], plain))]
    found["clones_differ"] = float((one["samples"] - two["samples"]).abs().max())
    before = both(latent.Fusion(0.5), "euler")[0]["samples"]
    management.unload_all_models()
    found["again_after_unloading"] = bool(torch.equal(both(latent.Fusion(0.5), "euler")[0]["samples"], before))
    steered(host, both, latent, alone, sigmas, a, b)
    displaced(host, both, latent, before)
    stopped(host, both, latent, before, a, b)


class _Noise:
    """ComfyUI's RandomNoise, as its node makes it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, latent: dict[str, Any]) -> Any:
        import comfy.sample

        return comfy.sample.prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))


class _Control(comfy.controlnet.ControlBase):
    """Adds a constant in the middle of a U-Net, and writes down the states it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def get_control(self, x_noisy: Any, *_: Any, **__: Any) -> Any:
        self.shapes.add(tuple(x_noisy.shape[1:]))
        batch, _, height, width = x_noisy.shape
        return {"input": [], "output": [], "middle": [torch.full((batch, 64, height // 2, width // 2), 2.0)]}


def steered(host: Any, both: Any, latent: Any, alone: Any, sigmas: Any, a: Any, b: Any) -> None:
    """A ControlNet of B (guess mode: an empty prompt) is asked for B alone, and so for A; chained and in another space as well."""
    control = _Control()
    guess = latent.Side(b.model, b.vae, [[tokens, {**more, "control": control}] for tokens, more in b.negative], b.negative, 3.0)
    one, two = both(latent.Fusion(0.0), "euler", a, guess)
    found["control_on_b"] = [bool(torch.equal(one["samples"], alone("euler"))), sorted(control.shapes)]
    guider, sampler = host.sampling.make_guider(guess.model, guess.positive, guess.negative, 3.0), host.sampling.named_sampler("euler")
    plain = host.sampling.sample_custom(guider, sampler, sigmas, {"samples": torch.zeros_like(two["samples"])}, 6)["samples"]
    found["control_on_b_is_b_alone"] = bool(torch.equal(two["samples"], plain))
    moved = both(latent.Fusion(0.5), "euler", a, guess)[0]["samples"] - both(latent.Fusion(0.5), "euler", a, b)[0]["samples"]
    found["control_moves_a"] = float(moved.abs().max())
    first, second = _Control(), _Control()
    sides = [
        latent.Side(s.model, s.vae, [[tokens, {**more, "control": c}] for tokens, more in s.positive], s.negative, 3.0)
        for s, c in ((a, first), (b, second))
    ]
    both(latent.Fusion(0.5), "euler", *sides)
    found["controls_apart"] = [sorted(first.shapes), sorted(second.shapes)]
    shared = [latent.Side(s.model, s.vae, [[t, {**m, "control": control}] for t, m in s.positive], s.negative, 3.0) for s in (a, b)]
    control.shapes.clear()
    both(latent.Fusion(0.5), "euler", *shared)
    found["control_shared"] = sorted(control.shapes)
    found["control_left"] = all(c.timestep_range is None for c in (control, first, second))


def displaced(host: Any, both: Any, latent: Any, before: Any) -> None:
    """As on a small card: decoding pushes every model off the device; each is back when it is asked."""
    original = host.vae.decode

    def alone(*rest: Any) -> Any:
        management.unload_all_models()
        return original(*rest)

    host.vae.decode = alone
    found["displaced"] = bool(torch.equal(both(latent.Fusion(0.5), "euler")[0]["samples"], before))
    host.vae.decode = original


def stopped(host: Any, both: Any, latent: Any, before: Any, a: Any, b: Any) -> None:
    """ComfyUI's cancel inside a step leaves both models clean."""
    original = host.vae.encode

    def interrupt(*rest: Any) -> Any:
        management.interrupt_current_processing(True)
        return original(*rest)

    host.vae.encode = interrupt
    try:
        both(latent.Fusion(0.5), "euler")
    except BaseException as error:
        found["interrupt"] = type(error).__name__
    host.vae.encode = original
    management.interrupt_current_processing(False)
    found["left"] = [getattr(side.model.model, "current_patcher", None) is None for side in (a, b)]
    found["after_interrupt"] = bool(torch.equal(both(latent.Fusion(0.5), "euler")[0]["samples"], before))


with torch.inference_mode():
    run()
write(found)
