"""Pictures that a U-Net draws while it is trained, for people to look at: `samples-<step>.png` in the folder of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from einops import rearrange
from PIL import Image

from ...diffusion.schedule import NoiseSchedule, output_to_denoised
from ...files import replacing
from ..inputs.encoder import LatentEncoder
from ..inputs.readers import Readers

COLUMNS, STEPS, GUIDANCE = 4, 20, 3.0


class Drawing(Protocol):
    """What is asked of a recipe that trains a U-Net, once it is set up."""

    prediction: str
    vae: str
    t_min: int
    t_max: int
    used: list[int]
    latents: torch.Tensor
    readers: Readers
    noise_levels: NoiseSchedule

    def caption(self, index: int, generator: torch.Generator) -> str: ...

    def predict(self, batch: dict[str, Any], network_input: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor: ...


@torch.no_grad()
def draw_previews(recipe: Drawing, captions: list[str], seed: int = 0) -> torch.Tensor:
    """Return pictures (N, 3, H, W) in [-1, 1] of `captions`, drawn by Euler's method under guidance, always from the same noise.

    A model of a part of the timesteps starts at its first and ends with its estimate at its last.
    """
    levels, readers = recipe.noise_levels, recipe.readers
    texts = [*captions, *[""] * len(captions)]
    read = [readers.tokens(number, texts if number in readers.told else [""] * len(texts)) for number in range(len(readers.encoders))]
    tokens = readers.encode([ids for ids, _ in read], [rows for _, rows in read])[0]
    device, (channels, height, width) = tokens.device, recipe.latents.shape[1:]
    timesteps = torch.linspace(recipe.t_max - 1, recipe.t_min, STEPS) + levels.first_timestep
    sigmas = levels.sigma(timesteps).to(device)
    noise = torch.randn(len(captions), channels, height, width, generator=torch.Generator().manual_seed(seed)).to(device)
    x = levels.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), max_denoise=True)
    for timestep, sigma, following in zip(timesteps.to(device), sigmas, [*sigmas[1:], 0.0], strict=True):
        twice, levels_of_all = torch.cat([x, x]), sigma.expand(2 * len(x))
        output = recipe.predict({}, levels.calculate_input(levels_of_all, twice), timestep.expand(len(twice)), tokens).float()
        given, empty = output_to_denoised(recipe.prediction, levels_of_all, output, twice).chunk(2)
        denoised = empty + GUIDANCE * (given - empty)
        x = denoised + (x - denoised) / sigma * following
    return LatentEncoder(recipe.vae, device).decode(x)


def write_previews(recipe: Drawing, path: Path, count: int = 8) -> Path:
    """Draw pictures of the captions of the first `count` pictures of the recipe's folder, and write them as one sheet."""
    captions = [recipe.caption(i, torch.Generator().manual_seed(i)) for i in recipe.used[:count]]
    pictures = draw_previews(recipe, captions)
    missing = -len(pictures) % COLUMNS if len(pictures) > COLUMNS else 0
    sheet = torch.cat([pictures, pictures.new_ones(missing, *pictures.shape[1:])])
    pixels = rearrange((sheet + 1) * 127.5, "(rows columns) c h w -> (rows h) (columns w) c", columns=min(COLUMNS, len(sheet)))
    with replacing(path) as temporary:
        Image.fromarray(pixels.round().clamp(0, 255).byte().cpu().numpy()).save(temporary, format="PNG")
    return path
