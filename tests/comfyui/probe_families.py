"""Checks of families.py itself: every family is sampled by ComfyUI's own euler, and its VAE keeps a latent's colours; see inside.py."""

from __future__ import annotations

from typing import Any

from inside import write

# isort: split
import comfy.sample
import families
import torch

found: dict[str, Any] = {"lacks": [name for name in families.FAMILIES if name not in families.available()], "families": {}}


def sampled(name: str) -> torch.Tensor:
    """Two steps of euler with a CFG of 2 from noise of a fixed seed."""
    empty = families.latent(name)["samples"]
    noise = torch.randn(empty.shape, generator=torch.Generator().manual_seed(1))
    prompts = [families.conditioning(name, seed) for seed in (0, 1)]
    return comfy.sample.sample(families.model(name), noise, 2, 2.0, "euler", "simple", *prompts, empty, disable_pbar=True, seed=1)


def flows(name: str) -> bool:
    """Whether the family's sampling class mixes noise as flow models do, found by asking it."""
    half, one = torch.tensor([0.5]), torch.ones(1, 1, 1, 1)
    return float(families.model(name).model.model_sampling.noise_scaling(half, one, one)) == 1.0  # 1.5 where noise is added on top


def run() -> None:
    with torch.inference_mode():
        for name in families.available():
            family, latents = families.FAMILIES[name], families.latent(name, seed=2)["samples"]
            vae, out = families.vae(name), sampled(name)
            picture = vae.decode(latents)
            again = vae.encode(picture[0] if family.video else picture)
            found["families"][name] = {
                "shape": list(out.shape), "wanted": [1, *family.size], "finite": bool(out.isfinite().all()), "spread": float(out.std()),
                "flow": [flows(name), family.flow], "picture": list(picture.shape),
                "kept": float((again[:, :3] - latents[:, :3]).abs().max()), "encoded": list(again.shape),
                "weights": sum(weight.numel() for weight in families.model(name).model.parameters()),
            }  # fmt: skip
    write(found)


run()
