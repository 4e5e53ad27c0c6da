"""What the trained parts of `bench mobile` share: the shipped model, pictures to train on, held-out latents, and files of earlier runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .stopwatch import Timing, interleave

if TYPE_CHECKING:
    from ..core.metrics.orchard import Floats, Parts

SIDE, SEED = 128, 11
CFG, STEPS = 4.0, 25
"""Guidance scale and steps of the pictures that are judged."""


@dataclass(frozen=True)
class Lab:
    """`folder` keeps what is trained, from `pictures` renders; `count` pictures are judged; timings take `repeats` turns (0: none)."""

    folder: Path
    pictures: int
    count: int
    repeats: int

    @cached_property
    def parts(self) -> Parts:
        """The shipped model."""
        from .shipped import shipped_parts

        return shipped_parts()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let training read `pictures` and write its files inside the folder."""
        from ..core.orchard.dataset import write_dataset
        from ..core.paths import using_dirs

        data = self.folder / "pictures"
        if not (data / "captions.jsonl").is_file():
            write_dataset("train", self.pictures, SIDE, data)
        with using_dirs(input=self.folder, output=self.folder):
            yield

    def made(self, name: str) -> Path:
        """Return the file of what was trained under `name`."""
        return self.folder / "rapiddraw" / f"{name}.safetensors"

    @cached_property
    def encoded(self) -> tuple[Any, Any]:
        """(The shipped U-Net as a teacher, the pictures to train on, encoded once)."""
        from ..core.operations.distill_data import encode_folder, training_folder

        parts = self.parts
        teacher = parts.host.training.denoiser(parts.model)
        with self.open():
            images = training_folder("pictures", SIDE)
            return teacher, encode_folder(parts.host, lambda: teacher, parts.clip, parts.vae, images, 8)

    def network(self, model: Any) -> Any:
        """Return the torch module of a MODEL."""
        return self.parts.host.speed.network_of("model", model)

    def evaluation(self, model: Any) -> Any:
        """Return a function that evaluates a MODEL's network once, for one picture."""
        import torch

        latent = {"samples": torch.zeros(1, 4, SIDE // 8, SIDE // 8), "downscale_ratio_spacial": 8}
        fitted = self.parts.host.sampling.fit_latent(model, latent)
        once = self.parts.host.surgery.evaluate(model, fitted)

        def quietly() -> None:
            with torch.no_grad():
                once()

        return quietly

    def sizes(self, model: Any) -> dict[str, Any]:
        """Return parameters and multiply-adds of one evaluation as cells of a row."""
        from ..core.metrics.blocks import Cost, metered, weight_size

        costs: dict[str, Cost] = {}
        with metered(self.network(model), costs, count=True):
            self.evaluation(model)()
        return {
            "parameters M": round(weight_size(self.network(model))[0] / 1e6, 3),
            "GMAC": round(costs["all"].multiply_adds / 1e9, 4),
        }

    def times(self, models: dict[str, Any]) -> dict[str, Timing]:
        """Return the time of one evaluation of each MODEL, which take turns; {} where no timing is asked for."""
        if not self.repeats:
            return {}
        return interleave({name: self.evaluation(model) for name, model in models.items()}, self.repeats, least=0.3)

    def accuracy(self, model: Any, vae: Any = None) -> Floats:
        """Return the attribute accuracy of each of `count` pictures of seen names that a MODEL draws."""
        from ..core.metrics.orchard import AA_ATTRIBUTES, accuracy_by_picture, evaluation_scenes, prompts_for, sample_pictures
        from ..core.scoring.judge import judge_pictures
        from .shipped import sampling, shipped_judge

        parts, pairs = self.parts, evaluation_scenes("seen", self.count, SEED)
        drawing = replace(parts, model=model, vae=vae or parts.vae)
        pictures = sample_pictures(drawing, prompts_for(pairs), sampling(parts.host, CFG, STEPS), SIDE)
        return accuracy_by_picture(judge_pictures(shipped_judge(), pictures)[0], [scene for _, scene in pairs], AA_ATTRIBUTES)

    @cached_property
    def held_out(self) -> tuple[Any, list[str]]:
        """(Unscaled latents of renders that nobody trained on, their prompts)."""
        from einops import rearrange

        from ..core.metrics.orchard import evaluation_scenes, prompts_for, render_batch

        pairs = evaluation_scenes("seen", self.count, SEED)
        renders = rearrange(render_batch([scene for _, scene in pairs], SIDE), "b c h w -> b h w c") / 2 + 0.5
        return self.parts.host.vae.encode(self.parts.vae, renders).float(), prompts_for(pairs)
