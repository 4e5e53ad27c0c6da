"""The networks of a distillation into few steps: one network that is student and teacher, or two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...fewstep.guidance_embedded import ScaleEmbedding
from ...host.denoiser import Denoiser
from ...lowrank.lora import Lora


class OtherWeights(nn.Module):
    """A second set of values for the parameters of a student: those of an earlier round, or their average."""

    followed: Tensor

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self._live = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self.values = nn.ParameterList(nn.Parameter(one.detach().clone(), requires_grad=False) for one in self._live)
        self.register_buffer("followed", torch.tensor(-1))

    @torch.no_grad()
    def follow(self, decay: float, step: int) -> None:
        """Move the values towards those of the student: to `decay` of the old ones. 0 copies the student.

        A `step` counts once: one that was stopped in the middle is done again by the run that goes on."""
        if int(self.followed) == step:
            return
        self.followed.fill_(step)
        for value, live in zip(self.values, self._live, strict=True):
            value.lerp_(live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Exchange the student's values for these until the block ends. Nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for value, live in zip(self.values, self._live, strict=True):
            value.data, live.data = live.data, value.data


class Networks:
    """A student and its teacher. With `lora` they are one network (`learner`), with the pairs on and off; else `teacher` is another one.

    `other` are the student's second values, `embedding` the embedding of the guidance scale; both may be missing.
    """

    def __init__(self, learner: Denoiser, lora: Lora | None, teacher: Denoiser | None, other: bool, embeds: int = 0) -> None:
        self.learner, self.lora, self._teacher = learner, lora, teacher
        self.embedding = ScaleEmbedding(embeds).to(learner.device) if embeds else None
        weights = {name.replace(".", "/"): weight for name, weight in learner.network.named_parameters()} if lora is None else {}
        self.trained: nn.Module = nn.ParameterDict(weights) if lora is None else lora
        self.other = OtherWeights(self.trained) if other else None

    def student(self, x: Tensor, sigma: Tensor, text: Any) -> Tensor:
        """Return the student's `denoised`."""
        return self.learner.denoise(x, sigma, text)

    def told(self, scale: Tensor) -> Callable[[Tensor, Tensor, Any], Tensor]:
        """Return the student as a function that is told the guidance scales (B,)."""
        embedding = self.embedding
        if embedding is None:
            raise InputError("this student is not told its guidance scale")
        return lambda x, sigma, text: self.learner.denoise(x, sigma, {**text, "tokens": text["tokens"] + embedding(scale.to(x.device))})

    def teacher(self, x: Tensor, sigma: Tensor, text: Any) -> Tensor:
        """Return the teacher's `denoised`. Gradients go through it to `x` where it shares the student's network."""
        if self._teacher is not None:
            return self._teacher.denoise(x, sigma, text).clone()
        if self.lora is None:
            raise InputError("a whole network that learns needs a teacher beside it")
        with self.lora.off():
            return self.learner.denoise(x, sigma, text)

    def before(self, x: Tensor, sigma: Tensor, text: Any) -> Tensor:
        """Return the `denoised` of the student with its second values, without gradients."""
        if self.other is None:
            raise InputError("this student has no second values")
        with torch.no_grad(), self.other.applied():
            return self.learner.denoise(x, sigma, text)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds, by name."""
        parts = {"student": self.trained, "other": self.other, "embedding": self.embedding}
        return {name: part for name, part in parts.items() if part is not None}
