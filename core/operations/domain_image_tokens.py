"""Training of tokens that a MODEL of either host attends to, from a picture's embedding: a picture as a prompt.

PanGu-Draw fuses its model with such an image-variation model (section 5.2). Each picture of the folder is its own prompt, after its caption
or alone. The model is frozen; the projection from embeddings to tokens is trained, as the recipe `image_tokens` trains it: first by plain
regression to the text encoder's states for the picture's caption, then by the diffusion loss.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..bundles.format import save_bundle
from ..checks import real_number, whole_number
from ..host import current
from ..host.denoiser import Denoiser
from ..lowrank.hooked import Hooked, Switched
from ..progress import Progress
from ..text.image_tokens import ImageTokens, lacking, prompt_of, to_bundle
from ..text.picture_reader import PictureReader
from ..train.recipes.image_tokens import learn_to_read
from .distill import BYTES_A_WEIGHT
from .domain import DomainTuning
from .domain_data import Pictures, Prepared, evaluator, owned
from .domain_previews import Previews

ALONE = 0.4
"""Share of batches in which no text stands beside the pictures' tokens."""
WIDE = 4096
"""Width of the tokens of a model that does not tell it, until a text tells it."""
MOST_TOKENS, MOST_HIDDEN, MOST_READING = 256, 8192, 100_000


@dataclass
class ImageTokensTuning(DomainTuning):
    """The recipe behind Train Image Tokens. `rank`, `alpha` and `layers` are not used."""

    name: ClassVar[str] = "domain_image_tokens"
    called: ClassVar[str] = "projection"
    takes_text: ClassVar[bool] = False
    place: ClassVar[str] = "rapiddraw of the output folder, for Image Variation Encode"

    lr: float = 5e-4
    caption_dropout: float = 0.5
    tokens: int = 16
    hidden: int = 1024  # width between the embedding and the tokens
    reading: int = 200  # steps of regression to the captions' states before the training begins
    reading_lr: float = 3e-3  # learning rate of that regression
    reader: str = ""  # what read the pictures, so that a run is resumed with the same only

    def of(self, reader: PictureReader, model: Any) -> None:
        """Take what reads the pictures, and how wide the tokens of `model` are."""
        self.read, self.embedding, self.told = reader.read, reader.width, dict(reader.told)
        self.reader = str(self.told.get("mark") or self.told.get("sha256"))
        self.width = current().model.attended_width(model) or WIDE

    def check_model(self, model: Any, empty: Any) -> None:
        super().check_model(model, empty)
        host, (text, details) = current(), empty[0]
        self.width = int(text.shape[-1])
        self.pooled, self.needed = host.model.pooled_width(model), host.model.needed_details(model)
        with torch.device("meta"):
            self.projected()
        picture = torch.zeros(1, self.tokens, self.width)
        host.training.check(model, prompt_of(picture, [[text, details]]), self.size)

    def given(self, model: Any, denoiser: Denoiser, prepared: Prepared, pictures: Pictures, previews: Previews) -> None:
        self.base, self.switch, self.texts = denoiser, Switched(), previews.texts
        self.shown = [*pictures.parts["validation"], *pictures.parts["train"]]
        self.embeddings = self._embedded(pictures, prepared)
        previews.beside = self._drawn_by
        super().given(model, replace(denoiser, denoise=self._prompted), prepared, pictures, previews)

    def attach(self, network: nn.Module, device: torch.device) -> Mapping[str, Hooked]:
        self.projection = self.projected().to(device)
        if self.reading:
            chosen = self.pictures.parts["train"]
            states = torch.stack([self._states(self.pictures.captions[i][0]) for i in chosen]).to(device)
            given = torch.stack([self.embeddings[i][0] for i in chosen]).to(device)
            optimizer = self.adamw(list(self.projection.parameters()), self.reading_lr)
            learn_to_read(self.projection, (given, states), optimizer, self.reading, self.seed)
        return {}

    def projected(self) -> ImageTokens:
        """Return a new projection. Raises :class:`InputError` for embeddings or texts that are too wide."""
        return ImageTokens(self.embedding, self.hidden, self.tokens, self.width)

    def modules(self) -> dict[str, nn.Module]:
        return {"tokens": self.projection}

    def conditions_of(
        self, texts: Sequence[str], shown: Sequence[tuple[int, int]], shape: tuple[int, ...], rng: random.Random | None = None
    ) -> Any:
        alone = rng is not None and rng.random() < ALONE and not lacking(self.needed)
        embeddings = torch.stack([self.embeddings[number][side] for number, side in shown])
        return {"texts": [None if alone else text for text in texts], "embeddings": embeddings}

    def write(self, out: Path, told: Mapping[str, Any]) -> list[Path]:
        return [save_bundle(out, *to_bundle(self.projection, self.told, dict(told)))]

    def switches(self) -> Iterable[Switched]:
        return [self.switch]

    def described(self) -> str:
        numbers = sum(weight.numel() for weight in self.projection.parameters())
        return f"projection of {self.embedding} features to {self.tokens} tokens of {self.width}, {numbers:,} parameters"

    def room(self, network: nn.Module) -> int:
        return BYTES_A_WEIGHT * self.hidden * (self.embedding + self.tokens * self.width)

    def check(self) -> None:
        super().check()
        for key, low, most in (("tokens", 1, MOST_TOKENS), ("hidden", 1, MOST_HIDDEN), ("reading", 0, MOST_READING)):
            whole_number(key, getattr(self, key), low, most)
        real_number("reading_lr", self.reading_lr, 0.0, 10.0)

    def _prompted(self, x: torch.Tensor, sigma: torch.Tensor, given: Any) -> torch.Tensor:
        """Evaluate the base, with the pictures' tokens where `given` has their embeddings."""
        if not isinstance(given, Mapping) or "embeddings" not in given:
            return self.base.denoise(x, sigma, given)
        shape, texts = tuple(x.shape[1:]), given["texts"]
        if self.switch.strength:
            tokens = self.projection(given["embeddings"].to(x.device)).cpu()
            prompts = [self._prompt(text, one[None]) for text, one in zip(texts, tokens, strict=True)]
        else:
            prompts = [self.texts[text or ""] for text in texts]
        conditions = [owned(self.base.condition(prompt, shape)) for prompt in prompts]
        return evaluator(self.base, conditions)(x, sigma)

    def _prompt(self, text: str | None, tokens: torch.Tensor) -> Any:
        """Return the CONDITIONING of a picture's tokens (1, T, width) after those of `text`; alone for None."""
        return prompt_of(tokens, None, self.pooled, self.needed) if text is None else prompt_of(tokens, self.texts[text][:1])

    def _drawn_by(self, number: int, shape: tuple[int, ...], empty: bool) -> Mapping[str, torch.Tensor]:
        """Return the condition of a prompt that is drawn with a picture of the folder; nothing new without what was learned."""
        if empty or not self.switch.strength:
            return {}
        embedding = self.embeddings[self.shown[number % len(self.shown)]][0]
        tokens = self.projection(embedding[None].to(self.base.device)).cpu()
        return self.base.condition(self._prompt(self.previews.prompts[number], tokens), shape)

    def _states(self, text: str) -> torch.Tensor:
        """Return the text encoder's first states (tokens, width) for `text`; the last one is repeated where there are fewer."""
        states = self.texts[text][0][0][0]
        return states[torch.arange(self.tokens).clamp(max=len(states) - 1)].float()

    def _embedded(self, pictures: Pictures, prepared: Prepared) -> list[torch.Tensor]:
        """Return the embeddings (1 or 2, features) of every picture, and of its mirror image where that is trained on."""
        found = []
        with Progress(len(pictures), "reading pictures", "image") as bar:
            for i, size in enumerate(pictures.sizes):
                picture = (pictures.images.fitted(i, *size).movedim(0, -1)[None] + 1) / 2
                both = [picture, picture.flip(2)][: len(prepared.latents[i])]
                found.append(torch.cat([self.read(one) for one in both]))
                bar.update()
        with torch.inference_mode(False):
            return [one.clone() for one in found]
