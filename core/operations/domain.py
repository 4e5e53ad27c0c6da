"""Training of LoRA pairs for a MODEL of either host on a user's pictures, with the CLIP and the VAE of its graph.

The loss is the family's own: the squared error of what the network predicts (noise, v, x0, or a flow), in min-SNR weights or alike. The
base's weights are frozen, in bfloat16 on a GPU; the pairs are in float32.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ..checks import real_number
from ..device import free_memory
from ..diffusion.weighting import WEIGHTINGS, loss_weight, output_slope
from ..errors import InputError
from ..host import current
from ..host.denoiser import Denoiser, together
from ..lowrank.hooked import Hooked, Switched, paired_layers
from ..lowrank.lora import MAX_RANK, Factors, attach_lora
from ..lowrank.lora_file import save_lora
from ..lowrank.roles import role_of
from ..train.recipe import Losses, Recipe, derived_seed, python_random
from .checkpointing import checkpoint_blocks, needs_checkpoints
from .distill import BYTES_A_WEIGHT
from .domain_choices import CHECKPOINTING, LAYERS
from .domain_data import BucketOrder, Pictures, Prepared, to_device
from .domain_previews import Previews
from .domain_text import PROJECTION, TEXT, TEXT_PARTS, TextSide, beside, text_factors

if TYPE_CHECKING:
    from torch.optim import Optimizer

LEVELS, MOST_HELD_OUT = 4, 32
"""Noise levels at which each held-out picture is measured, and the most held-out pictures that are measured."""


@dataclass
class DomainTuning(Recipe):
    """The recipe behind Train Domain Model; :meth:`given` hands over what a graph has made before it is run."""

    name: ClassVar[str] = "domain"
    volatile: ClassVar[frozenset[str]] = frozenset({"prefetch", "checkpointing"})
    sets: ClassVar[int] = 1  # of pairs that lie on the network
    called: ClassVar[str] = "LoRA"
    takes_text: ClassVar[bool] = True  # whether the text side can be trained along
    place: ClassVar[str] = "loras of the output folder, for Load LoRA"
    advice: ClassVar[str] = "choose t_min and t_max inside that range"

    lr: float = 1e-4
    batch_size: int = 1
    warmup: int = 10
    rank: int = 16
    alpha: float = 16.0
    layers: str = "attention"
    size: int = 512
    buckets: bool = True
    flip: bool = False
    template: str = "a photo of {object}"
    subject: str = ""
    caption_dropout: float = 0.1  # share of captions replaced by the empty text
    weighting: str = "min_snr"
    t_min: int = 0  # timesteps, of 1000, that are trained: from t_min up to t_max
    t_max: int = 1000
    checkpointing: str = "auto"  # whether the network computes its blocks again in the backward pass: auto (by free memory), on, off
    text_rank: int = 0  # of pairs on the text encoder; 0 trains none
    text_lr: float = 0.5  # of what is trained of the text encoder and of W, as a share of lr
    learn_projection: bool = False  # whether the W of the CLIP's knowledge graph is trained
    fingerprint: str = ""  # of the base and the pictures, so that a run is resumed on the same ones only

    def given(self, model: Any, denoiser: Denoiser, prepared: Prepared, pictures: Pictures, previews: Previews) -> None:
        """Take the base (a MODEL that nobody else holds), it in training, and the data."""
        self.model, self.denoiser, self.prepared, self.pictures, self.previews = model, denoiser, prepared, pictures, previews
        self.learned: Mapping[str, Hooked] = {}
        self.uncheckpoint = _nothing

    def placed(self, places: Sequence[Path], side: TextSide | None) -> None:
        """Take the places of the files, and the text side where that is trained."""
        self.places, self.side = tuple(places), side

    def attach(self, network: nn.Module, device: torch.device) -> Mapping[str, Any]:
        """Put what is trained onto the layers of `network` and of the text encoder, and return it by name."""
        lora = attach_lora(network, LAYERS[self.layers], self.rank, self.alpha, device)
        return {"lora": lora, **(self.side.attach(self) if self.side is not None else {})}

    def setup(self, device: torch.device) -> None:
        network = self.denoiser.network.eval()
        self.learned = self.attach(network, device)
        trained = {i: tuple(self.prepared.latents[i][0].shape) for i in self.pictures.parts["train"]}
        shapes = sorted(set(trained.values()))
        members = [[i for i, one in trained.items() if one == shape] for shape in shapes]
        self.order = BucketOrder(members, self.batch_size, self.seed)
        self.gains: dict[str, tuple[float, float]] = {}
        wanted = self.checkpointing == "on"
        if self.checkpointing == "auto" and device.type == "cuda":
            largest = max(shapes, key=lambda shape: shape[-1] * shape[-2])
            wanted = needs_checkpoints(network, lambda: self._once(largest), device, self.batch_size)
        if wanted:
            self.uncheckpoint = checkpoint_blocks(network)

    def modules(self) -> dict[str, nn.Module]:
        return dict(self.learned)

    def optimizers(self) -> dict[str, Optimizer]:
        texts = [one for name in TEXT_PARTS if name in self.learned for one in self.learned[name].parameters()]
        others = [one for name, one in self.modules().items() if name not in TEXT_PARTS]
        rest = [weight for one in others for weight in one.parameters() if weight.requires_grad]
        main = {"main": self.adamw(rest)}
        return main | ({"text": self.adamw(texts, self.lr * self.text_lr)} if texts else {})

    def settings(self) -> dict[str, Any]:
        found = super().settings()
        if not self.trains_text:  # files and checkpoints are then those of versions that could not train it
            for name in ("text_rank", "text_lr", "learn_projection"):
                del found[name]
        return found

    @property
    def trains_text(self) -> bool:
        """Whether something of the text encoder is trained."""
        return self.text_rank > 0 or self.learn_projection

    def batch(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        rng = python_random(generator)
        chosen = self.order.indices(index)
        texts = ["" if rng.random() < self.caption_dropout else rng.choice(self.pictures.captions[i]) for i in chosen]
        shown = [(i, rng.randrange(len(self.prepared.latents[i]))) for i in chosen]
        latents = torch.stack([self.prepared.latents[i][side] for i, side in shown])
        if self.side is not None:  # encoded when the loss is computed, so that gradients reach the text side
            return {"latents": latents, "given": texts}
        return {"latents": latents, "given": self.conditions_of(texts, shown, tuple(latents.shape[1:]), rng)}

    def conditions_of(
        self, texts: Sequence[str], shown: Sequence[tuple[int, int]], shape: tuple[int, ...], rng: random.Random | None = None
    ) -> Any:
        """Return what the network reads beside latents of `shape`: here the `texts`.

        `shown` are the pictures, each its number and 0, or 1 for its mirror image; `rng` draws what is left out in training."""
        return self._together(texts, shape)

    def check_model(self, model: Any, empty: Any) -> None:
        """Raise :class:`InputError` where this recipe cannot train `model` with texts such as `empty`, the CONDITIONING of the empty text.

        Here: where the model was trained at none of the noise levels of one of :meth:`ranges`."""
        (low, high), count = current().training.levels(model)
        for name, (first, beyond) in self.ranges((low, high), count).items():
            if first >= beyond:
                raise InputError(
                    f"the model was trained at timesteps {round(low * 1000 / count)} to {round(high * 1000 / count)} of 1000 alone, which "
                    f"leaves nothing for {f'the {name} LoRA' if name else 'this training'}: {self.advice}, or give a model of all timesteps"
                )

    def check_pictures(self, pictures: Pictures) -> None:
        """Raise :class:`DataError` where the folder lacks what this recipe needs beside pictures and captions."""

    def room(self, network: nn.Module) -> int:
        """Return the bytes that what is trained needs. Raises :class:`InputError` where there is nothing to train."""
        layers = [layer for name, layer in paired_layers(network) if role_of(name, LAYERS[self.layers])]
        if not layers:
            raise InputError(f"no layer of this {type(network).__name__} is among {self.layers!r}: choose other layers")
        sides = [sum(layer.weight.flatten(1).shape) if getattr(layer, "weight", None) is not None else 0 for layer in layers]
        return BYTES_A_WEIGHT * self.sets * self.rank * sum(sides)

    def loss(self, batch: dict[str, Any]) -> Losses:
        return {"loss": self.error_in(batch, self.steps)}

    def error_in(self, batch: dict[str, Any], steps: tuple[int, int]) -> torch.Tensor:
        """Return the mean error of a batch at random noise levels with indices in `steps`."""
        latents, (first, beyond) = batch["latents"], steps
        given = batch["given"]
        if self.side is not None:
            given = to_device(self._together(given, tuple(latents.shape[1:])), latents.device)
        sigma = self.denoiser.sigmas[torch.randint(first, beyond, (len(latents),))].to(latents.device)
        return self._error(latents, sigma, torch.randn_like(latents), given).mean()

    @property
    def steps(self) -> tuple[int, int]:
        """The indices [first, last) of the noise levels that are trained."""
        return indices((self.t_min, self.t_max), self.denoiser.t_range, len(self.denoiser.sigmas))

    @property
    def measured(self) -> dict[str, tuple[int, int]]:
        """The ranges of noise levels that are trained, and at which held-out pictures are measured, by a name for the report."""
        return self.ranges(self.denoiser.t_range, len(self.denoiser.sigmas))

    def ranges(self, t_range: tuple[int, int], count: int) -> dict[str, tuple[int, int]]:
        """Return :attr:`measured` for a model that was trained at the indices `t_range` of `count` noise levels."""
        return {"": indices((self.t_min, self.t_max), t_range, count)}

    def evaluate(self, step: int, run_dir: Path) -> dict[str, float]:
        self.previews.draw(run_dir / f"samples-{step:08d}.png", step)
        return {f"held_out{name and '_'}{name}": loss for name, loss in self.held_out("validation").items()}

    def held_out(self, part: str) -> dict[str, float]:
        """Return the mean loss of the pictures of `part` by the names of :attr:`measured`; {} where there are none."""
        return {name: self._held_out(part, steps) for name, steps in self.measured.items()} if self.pictures.parts[part] else {}

    @torch.no_grad()
    def _held_out(self, part: str, steps: tuple[int, int]) -> float:
        """Return the mean loss of the pictures of `part` in a range of noise levels, always at the same noise and levels."""
        first, beyond = steps
        total, count = 0.0, 0
        for i in self.pictures.parts[part][:MOST_HELD_OUT]:
            latent = self.prepared.latents[i][0][None].to(self.denoiser.device)
            conditions = self.conditions_of([self.pictures.captions[i][0]], [(i, 0)], tuple(latent.shape[1:]))
            given = to_device(conditions, self.denoiser.device)
            generator = torch.Generator().manual_seed(derived_seed(self.seed, part, i))
            for level in range(LEVELS):
                t = first + (2 * level + 1) * (beyond - first) // (2 * LEVELS)
                noise = torch.randn(latent.shape, generator=generator).to(latent.device)
                total += float(self._error(latent, self.denoiser.sigmas[t : t + 1].to(latent.device), noise, given))
                count += 1
        return total / max(1, count)

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        tuned = {part: self.held_out(part) for part in ("validation", "test")}
        with self.off():
            base = {part: self.held_out(part) for part in tuned}
        self.gains = {
            " ".join(filter(None, (part, name))): (base[part][name], loss) for part, found in tuned.items() for name, loss in found.items()
        }
        told = {key: value for key, value in provenance.items() if key not in ("seconds", "processes")}
        told["held_out"] = {name: [float(f"{number:.6g}") for number in both] for name, both in self.gains.items()}
        return self.write(out, told)

    def write(self, out: Path, told: Mapping[str, Any]) -> list[Path]:
        """Write what was learned to `out`, with what is `told` of it; return the files."""
        written = [save_lora(out, self.keyed(self.learned["lora"]) | text_factors(self.learned), told)]
        change: Any = self.learned.get(PROJECTION)
        if change is not None:
            written.append(change.saved(beside(out, self.places), dict(told)))
        return written

    def keyed(self, lora: Any) -> dict[str, Factors]:
        """Return the factors of pairs on the network by their keys in a LoRA file."""
        return {current().surgery.lora_key(self.model, name): one for name, one in lora.factors().items()}

    @contextmanager
    def off(self) -> Iterator[None]:
        """Have the network compute as the base does until the block ends."""
        with ExitStack() as stack:
            for one in self.switches():
                stack.enter_context(one.off())
            yield

    def switches(self) -> Iterable[Switched]:
        """Return what :meth:`off` switches: what was put onto the networks."""
        return self.learned.values()

    def described(self) -> str:
        """Return what was trained, for the report."""
        one, *_ = self.learned.values()
        numbers = sum(weight.numel() for weight in one.parameters())
        line = f"{self.called} of rank {self.rank} on {len(one.names)} layers, {numbers:,} parameters"
        if TEXT in self.learned:
            text = self.learned[TEXT]
            numbers = sum(weight.numel() for weight in text.parameters())
            line += f"; of rank {self.text_rank} on {len(text.names)} layers of the text encoder, {numbers:,} parameters"
        return line + ("; the projection of the knowledge graph" if PROJECTION in self.learned else "")

    def release(self) -> None:
        """Take what was trained off the base and give its memory free."""
        for lora in self.learned.values():
            lora.detach()
        self.uncheckpoint()
        self.denoiser.release()
        if self.side is not None:
            self.side.release()

    def check(self) -> None:
        super().check()
        self.check_shares("caption_dropout")
        for key, choices in (("layers", tuple(LAYERS)), ("weighting", WEIGHTINGS), ("checkpointing", CHECKPOINTING)):
            if getattr(self, key) not in choices:
                raise InputError(f"{key}={getattr(self, key)!r}: expected {', '.join(choices)}")
        if not 1 <= self.rank <= MAX_RANK or not 0 < self.alpha <= 1e6:
            raise InputError(f"rank={self.rank}, alpha={self.alpha}: expected a rank of 1 to {MAX_RANK} and an alpha above 0")
        if not 0 <= self.t_min < self.t_max <= 1000:
            raise InputError(f"t_min={self.t_min}, t_max={self.t_max}: expected 0 <= t_min < t_max <= 1000")
        if not 0 <= self.text_rank <= MAX_RANK:
            raise InputError(f"text_rank={self.text_rank}: expected a rank of 1 to {MAX_RANK}, or 0 to leave the text encoder as it is")
        if self.trains_text and not self.takes_text:
            raise InputError(f"this recipe does not train the text encoder ({self.called}): set text_rank to 0 and learn_projection off")
        real_number("text_lr", self.text_lr, 0.0, 10.0)
        if not 32 <= self.size <= 4096:
            raise InputError(f"size={self.size}: expected 32 to 4096 pixels")

    def _error(self, latents: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor, given: Any) -> torch.Tensor:
        """Return the weighted squared error of each picture's prediction, (B,)."""
        denoised = self.denoiser.denoise(self.denoiser.noised(latents, sigma, noise), sigma, given)
        scale = output_slope(self.denoiser.prediction, sigma).square() * loss_weight(self.weighting, self.denoiser.prediction, sigma)
        return scale * (denoised.float() - latents).square().flatten(1).mean(1)

    def _together(self, texts: Sequence[str], shape: tuple[int, ...]) -> Any:
        if self.side is None:
            conditions = [self.prepared.texts[text, shape] for text in texts]
        else:
            conditions = [self.denoiser.condition(self.side[text], shape) for text in texts]
        return together(conditions) if self.denoiser.batches else conditions

    def _once(self, shape: tuple[int, ...]) -> None:
        """Evaluate the network on one picture, to see what it needs."""
        sigma = self.denoiser.sigmas[self.steps[0] : self.steps[0] + 1].to(self.denoiser.device)
        given = to_device(self.conditions_of([""], [(0, 0)], shape), self.denoiser.device)
        self.denoiser.denoise(torch.zeros(1, *shape, device=self.denoiser.device), sigma, given)


def indices(timesteps: tuple[int, int], t_range: tuple[int, int], count: int) -> tuple[int, int]:
    """Return the indices [first, last) of the noise levels of `timesteps` [from, to), of 1000, inside `t_range`, of `count` levels."""
    low, high = (round(t * count / 1000) for t in timesteps)
    return max(t_range[0], low), min(t_range[1], high)


def check_room(network: nn.Module, recipe: DomainTuning, device: torch.device, texts: int = 0) -> int:
    """Return the bytes that the trained pairs need, beside the base and `texts` weights of a text encoder.

    Raises :class:`InputError` where all of them do not fit into free memory."""
    pairs = recipe.room(network)
    weights = (texts + sum(one.numel() for one in network.parameters())) * (2 if device.type == "cuda" else 4)
    free = free_memory(device)
    if free is not None and weights + pairs > free:
        raise InputError(
            f"training needs {(weights + pairs) / 2**30:.1f} GB for the weights alone and {free / 2**30:.1f} GB are free on {device}: "
            "close other programs, take a smaller model, or lower rank"
        )
    return pairs


def _nothing() -> None:
    return None
