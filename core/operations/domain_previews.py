"""Pictures that a MODEL draws while it is trained, by any family's network: one row for the base, one for what was learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..files import replacing
from ..host.denoiser import Denoiser
from ..progress import Progress
from ..train.writing import tried
from .domain_data import evaluator, owned

STEPS, GUIDANCE = 12, 4.0
MOST = 4
"""Prompts that are drawn."""


@dataclass
class Previews:
    """`prompts` drawn by Euler's method, always from the same noise of `shape` (C, ...); `decode` makes an IMAGE of unscaled latents.

    `beside(number, shape, empty)` is what the condition of a prompt, or of the empty text in its place, holds beside the text."""

    denoiser: Denoiser
    texts: Any  # CONDITIONINGs by text
    prompts: Sequence[str]
    shape: tuple[int, ...]
    decode: Callable[[torch.Tensor], torch.Tensor]
    seed: int = 0
    beside: Callable[[int, tuple[int, ...], bool], Mapping[str, torch.Tensor]] = lambda number, shape, empty: {}
    drawn: dict[int, torch.Tensor] = field(default_factory=dict)

    def draw(self, path: Path, step: int) -> None:
        """Draw the prompts after `step` steps, show them, and write them to `path`."""
        if not self.prompts:
            return
        pictures = self.pictures()
        self.drawn[step] = pictures
        sheet = _sheet([pictures])
        tried(lambda: _write(sheet, path), f"writing {path.name}")
        with Progress(1, "samples", "sheet") as bar:
            bar.update(preview=Image.fromarray(_bytes(sheet)))

    @torch.no_grad()
    def pictures(self) -> torch.Tensor:
        """Return the prompts as an IMAGE (N, H, W, 3)."""
        prompts = list(self.prompts[:MOST])
        with torch.inference_mode(False), torch.no_grad():
            latents = self._sampled(prompts)
        with torch.inference_mode():
            made = [self.decode(self.denoiser.unscaled(latent[None])).float().cpu().flatten(0, -4)[:1] for latent in latents]
        return torch.cat(made).clone()

    def compared(self, off: Callable[[], AbstractContextManager[Any]]) -> torch.Tensor:
        """Return a sheet (1, H, W, 3): the prompts by the base in the first row, by what was learned in the second."""
        if not self.prompts:
            return torch.ones(1, 64, 64, 3)
        with off():
            before = self.pictures()
        return _sheet([before, self.pictures()])[None]

    def _sampled(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return latents of the prompts, in the model's scale. Given and empty texts are evaluated together where they can be."""
        denoiser, count = self.denoiser, len(prompts)
        first, beyond = denoiser.t_range
        texts = (*prompts, *[""] * count)
        conditions = [
            owned({**denoiser.condition(self.texts[text], self.shape), **self.beside(place % count, self.shape, place >= count)})
            for place, text in enumerate(texts)
        ]
        evaluate = evaluator(denoiser, conditions)
        sigmas = [*denoiser.sigmas[torch.linspace(beyond - 1, first, STEPS).round().long()].tolist(), 0.0]
        sources = [torch.Generator().manual_seed((self.seed + i) % 2**64) for i in range(count)]
        noise = torch.cat([torch.randn(1, *self.shape, generator=one) for one in sources]).to(denoiser.device)
        x = denoiser.noised(torch.zeros_like(noise), torch.full((count,), sigmas[0], device=denoiser.device), noise)
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            level = torch.full((2 * count,), sigma, device=denoiser.device)
            named, empty = evaluate(torch.cat([x, x]), level).float().chunk(2)
            denoised = empty + GUIDANCE * (named - empty)
            x = denoised + (x - denoised) * (following / sigma)
        return x


def _sheet(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return pictures (N, H, W, 3) of each row side by side, (rows * H, N * W, 3)."""
    return torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0)


def _bytes(sheet: torch.Tensor) -> Any:
    return (sheet * 255).round().clamp(0, 255).byte().numpy()


def _write(sheet: torch.Tensor, path: Path) -> None:
    with replacing(path) as temporary:
        Image.fromarray(_bytes(sheet)).save(temporary, format="PNG")
