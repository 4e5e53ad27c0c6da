"""A model on two devices, as ComfyUI's MultiGPU nodes keep it; started as inside.py says. Both devices are this CPU, under two names."""

from __future__ import annotations

import importlib.util
from typing import Any

from inside import load_pack, write

# isort: split
import comfy.sample
import comfy.samplers
import torch

import nodes

STEPS, WINDOW, LATENT = 12, 6, torch.zeros(2, 4, 8, 8)
ours = load_pack()


def guider(model: Any, kind: type = comfy.samplers.CFGGuider) -> Any:
    made = kind(model)
    made.set_conds(conditioning(1), conditioning(2))
    made.set_cfg(3.0)
    return made


def conditioning(seed: int) -> list[Any]:
    return [[torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(seed)), {"pooled_output": None}]]


def drawn(guider: Any) -> torch.Tensor:
    sampling = ours("core.host.comfy.sampling")
    picard = ours("core.diffusion.samplers.picard").sample_picard
    sampler = sampling.make_sampler(picard, {"window": WINDOW, "tolerance": 0.0})
    sigmas = sampling.calculate_sigmas(guider.model_patcher, "normal", STEPS)
    return guider.sample(comfy.sample.prepare_noise(LATENT, 1), LATENT, sampler, sigmas, disable_pbar=True, seed=1)


def watched(model: Any) -> list[int]:
    """The batch size of each call that `model`'s network receives from now on."""
    calls: list[int] = []
    real = model.model.apply_model

    def apply_model(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(len(x))
        return real(x, *args, **kwargs)

    model.model.apply_model = apply_model
    return calls


class Remembering(comfy.samplers.CFGGuider):
    """A guider that one thread must ask: it keeps something between its calls."""

    def outer_predict_noise(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().outer_predict_noise(*args, **kwargs)


model = nodes.NODE_CLASS_MAPPINGS["RapidDrawBundleLoader"]().execute(
    "tiny-unet.safetensors", "tiny-text.safetensors", "tiny-vae.safetensors"
)[0]
alone = drawn(guider(model))
if importlib.util.find_spec("comfy.multigpu") is None:
    write({"devices": 1})
else:
    from comfy.multigpu import GPUOptionsGroup

    shared = model.clone()
    twin = shared.deepclone_multigpu(new_load_device=torch.device("cpu", 0))
    twin.is_multigpu_base_clone = True
    shared.set_additional_models("multigpu", [twin])
    GPUOptionsGroup().register(shared)
    twin = shared.get_additional_models_with_key("multigpu")[0]
    calls = [watched(shared), watched(twin)]
    together = drawn(guider(shared))
    found = {"devices": 2, "calls": [list(one) for one in calls], "error": float((together - alone).abs().max())}
    found["scale"] = float(alone.abs().max())
    for one in calls:
        one.clear()
    found["error of a guider that remembers"] = float((drawn(guider(shared, Remembering)) - alone).abs().max())
    found["calls of a guider that remembers"] = [list(one) for one in calls]
    write(found)
