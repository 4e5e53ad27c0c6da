"""What goes into the recipe `few_step` and comes out of it: models and prompts, samples while it learns, the student's file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...diffusion.noise import Convention
from ...errors import InputError
from ...fewstep.about import KEY, About
from ...fewstep.segment import Segment, euler, guided
from ...host import Host, current
from ...lowrank.lora import attach_lora
from ...lowrank.lora_file import BESIDE, save_lora
from ...paths import cache_dir, file_sha256
from ..inputs.few_step import Drawing, Material, draw, first_state, joined, to_device
from ..recipe import derived_seed
from .few_step_networks import Networks
from .few_step_samples import write_samples

if TYPE_CHECKING:
    from ...host.denoiser import Denoiser

SCALE = f"{BESIDE}scale."
"""Beginning of the names of the tensors that embed the guidance scale, beside the LoRA in a file."""
UNETS_ONLY = ("guidance_embedded", "adversarial")
"""Methods that reach into a U-Net: its tokens, the maps of its encoder."""
SHOWN = 4


@dataclass(frozen=True)
class Source:
    """What a student is made of. `model` is the teacher's MODEL and `student` a copy of it that nobody else has; `texts` are CONDITIONINGs,
    first that of the empty prompt.

    `latents` (N, C, ...) are unscaled and described by `rows` of the texts; without them the teacher draws its own, of `shape` (C, ...),
    and keeps them in the file `kept`. `decode` makes an IMAGE of unscaled latents. `spare(learner,
    once, batch)` saves memory where a batch does not fit; `once()` evaluates the network for one picture.
    """

    host: Host
    model: Any
    student: Any
    texts: list[Any]
    shape: tuple[int, ...]
    kept: Path
    latents: Tensor | None = None
    rows: list[list[int]] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    spare: Callable[[Denoiser, Callable[[], None], int], None] | None = None


class FewStepFiles:
    """The half of the recipe that knows hosts and files."""

    def take(self: Any, source: Source) -> None:
        """Train what a node gives instead of the bundles in the settings."""
        self.source = source

    def open(self: Any, device: torch.device) -> None:
        """Prepare the networks and the material."""
        source: Source = self.source if hasattr(self, "source") else _of_bundles(self, device)
        self.source, lora = source, None
        whole = self.network == "whole"
        self.learner = source.host.training.denoiser(source.student, train=True, frozen=not whole)
        if self.method in UNETS_ONLY and not self.learner.batches:
            raise InputError(f"method={self.method} is for U-Nets, such as SD 1.5 and SDXL; choose another method for this model")
        if self.learner.t_range != (0, len(self.learner.sigmas)):
            first, beyond = self.learner.t_range
            raise InputError(f"this model draws the timesteps {first} to {beyond - 1} alone; distil one that draws all of them")
        if not whole:
            lora = attach_lora(self.learner.network, self.targets, self.rank, device=self.learner.device)
        teacher = source.host.training.denoiser(source.model) if whole else None
        self.convention = Convention(self.learner.prediction == "flow")
        texts = [_condition(self.learner, text, source.shape) for text in source.texts]
        if source.spare is not None and not whole and self.method != "adversarial":  # its gradients go through the network with LoRA off
            source.spare(self.learner, _once(self.learner, texts[0], source.shape), self.batch_size)
        embeds = texts[0]["tokens"].shape[-1] if self.method == "guidance_embedded" else 0
        self.networks = Networks(self.learner, lora, teacher, self.method in ("consistency", "progressive"), embeds)
        self.levels = source.host.sampling.calculate_sigmas(source.model, self.scheduler, self.few).float().cpu()
        if source.latents is None:
            parts = max(1, -(-self.teacher_steps // self.few))
            how = Drawing(self.levels, parts, self.guidance, self.drawn, self.batch_size, source.shape, self.seed)
            self.material = draw(self.learner, self.networks.teacher, self.convention, texts, how, source.kept)
        else:
            with torch.inference_mode(False):
                self.material = Material(texts, source.rows or [], self.learner.latent(source.latents.clone()).clone())

    def close(self: Any) -> None:
        """Take the pairs off the network and end its training."""
        self.networks.lora.detach()
        self.learner.release()

    def evaluate(self: Any, step: int, run_dir: Path) -> dict[str, float]:
        """Return the loss on latents that are not trained on, and draw a few of their prompts with the student and the teacher."""
        if not self.held_out:
            return {}
        torch.manual_seed(derived_seed(self.seed, "held out"))
        found = []
        for first in range(0, self.held_out, self.batch_size):
            items = list(range(first, min(first + self.batch_size, self.held_out)))
            batch = self._batch(items, [self.material.rows[i][0] for i in items])
            found += [float(self.loss(_moved(batch, self.learner.device))["loss"])] * len(items)
        if self.source.decode is not None:
            write_samples(run_dir / f"samples-{step:08d}.png", *self.samples())
        return {"heldout": sum(found) / len(found)}

    def samples(self: Any) -> tuple[Tensor, Tensor]:
        """Return pictures (N, H, W, 3) of held-out prompts, by the teacher (or the folder's own) and by the student in its few steps."""
        items = list(range(min(SHOWN, max(1, self.held_out))))
        latents = self.material.latents[items].float()
        with torch.no_grad():
            drawn = self._drawn(items)
        with torch.inference_mode():
            shown, made = (self.source.decode(self.learner.unscaled(part.to(self.learner.device)).cpu()) for part in (latents, drawn))
        return shown.cpu(), made.cpu()

    def _drawn(self: Any, items: list[int]) -> Tensor:
        """Return latents, in the model's scale, that the student draws of the prompts of `items`, from the noise that the teacher had."""
        device, about, levels = self.learner.device, self.about(), self.levels.to(self.learner.device)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "samples"))
        shape = (len(items), *self.material.latents.shape[1:])
        noise = self.material.noise[items] if self.material.noise is not None else torch.randn(shape, generator=generator)
        texts = [self.material.texts[self.material.rows[i][0]] for i in items]
        text, empty = (to_device(joined(self.learner, some), device) for some in (texts, [self.material.texts[0]] * len(items)))
        student = self.networks.student
        if self.method == "guidance_embedded":
            student = self.networks.told(torch.full((len(items),), about.scale, device=device))
        x = first_state(self.convention, levels[0], noise.to(device))
        for start, end in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
            at, to = torch.full((len(items),), start, device=device), torch.full((len(items),), end, device=device)
            segment = Segment(x, at, to, text, empty)
            denoised = guided(student, x, at, segment, 1.0 if about.guidance_free else about.scale)
            if about.sampler == "lcm" and end > 0:
                x = self.learner.noised(denoised, to, torch.randn(shape, generator=generator).to(device))
            else:
                x = euler(x, denoised, at, to)
        return x.float().cpu()

    def finish(self: Any, out: Path, provenance: dict[str, Any]) -> list[Path]:
        """Write the student: a LoRA file, or a bundle of kind `unet`."""
        about: About = self.about()
        if self.networks.lora is None:
            self.learner.release()
            with torch.inference_mode():  # a host's own copies and moves expect it
                return [self.source.host.model.save(self.source.student, out, {**provenance, KEY: about.as_json()})]
        surgery, factors = self.source.host.surgery, self.networks.lora.factors()
        keyed = {surgery.lora_key(self.source.student, name): pair for name, pair in factors.items()}
        embedding = self.networks.embedding
        more = {} if embedding is None else {f"{SCALE}{name}": weight for name, weight in embedding.state_dict().items()}
        return [save_lora(out, keyed, {KEY: about.as_json(), "provenance": provenance}, more)]


def shape_of(host: Host, model: Any, size: int) -> tuple[int, ...]:
    """Return the shape (C, ...) of a MODEL's latent of a picture of `size` x `size` pixels."""
    space = model.get_model_object("latent_format")
    factor = getattr(space, "factor", None) or getattr(space, "spacial_downscale_ratio", None) or 8
    side = max(1, size // factor)
    return tuple(host.sampling.fit_latent(model, {"samples": torch.zeros(1, 4, side, side)})["samples"].shape[1:])


def _condition(learner: Denoiser, conditioning: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return a CONDITIONING as the network takes it, in tensors that autograd may keep."""
    made = learner.condition(conditioning, shape)
    with torch.inference_mode(False):
        return {key: value.clone() if isinstance(value, Tensor) else value for key, value in made.items()}


def _once(learner: Denoiser, text: dict[str, Any], shape: tuple[int, ...]) -> Callable[[], None]:
    """Return a function that evaluates the network for one picture."""
    x, sigma = torch.zeros(1, *shape, device=learner.device), learner.sigmas[-1:].to(learner.device)

    def once() -> None:
        learner.denoise(x, sigma, to_device(joined(learner, [text]), learner.device))

    return once


def _moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: to_device(value, device) if isinstance(value, dict) else value.to(device) for key, value in batch.items()}


def _of_bundles(recipe: Any, device: torch.device) -> Source:
    """Return the source that the recipe's own settings name, for the command line."""
    from ...data.folder import ImageFolder
    from ...knowledge.graph import load_knowledge
    from ..inputs.latents import folder_latents

    host = current()
    model, clip = host.model.load(Path(recipe.teacher)), host.clip.load(Path(recipe.text))
    if recipe.graph:
        clip = host.knowledge.attach(clip, load_knowledge(Path(recipe.graph)), 1.0)
    vae = host.vae.load(Path(recipe.vae)) if recipe.vae else None
    images = ImageFolder(recipe.data, size=recipe.size) if recipe.data else None
    prompts = read_prompts(recipe.prompts) if recipe.prompts else orchard_prompts(recipe.drawn) if images is None else []
    number = {text: i for i, text in enumerate(dict.fromkeys(["", *prompts]))}
    rows: list[list[int]] | None = None
    if images is not None:
        rows = [[number.setdefault(caption.text, len(number)) for caption in item.captions] for item in images.items]
    latents = None
    if images is not None and recipe.vae and not recipe.prompts:
        scaled, space = folder_latents(images, recipe.vae, device)
        latents = scaled.float() / space.scale + space.shift
    shape = tuple(latents.shape[1:]) if latents is not None else shape_of(host, model, recipe.size)
    files = [file_sha256(path) for path in (recipe.teacher, recipe.text, recipe.graph) if path]
    told = f"{files}{list(number)}{shape}{recipe.few}{recipe.teacher_steps}{recipe.scheduler}{recipe.guidance}{recipe.drawn}{recipe.seed}"
    kept = cache_dir() / f"few-step-{hashlib.sha256(told.encode()).hexdigest()[:16]}.safetensors"
    student = host.surgery.rebuild(model, lambda network: None)
    source = Source(
        host, model, student, [host.clip.encode(clip, text) for text in number], shape, kept, latents, rows if latents is not None else None
    )
    return source if vae is None else replace(source, decode=lambda latents: host.vae.decode(vae, latents))


MAX_PROMPTS = 4096
MAX_PROMPT_BYTES = 2**20


def read_prompts(path: str) -> list[str]:
    """Return the prompts of a text file, one a line; empty lines are left out. Raises :class:`InputError` for a file that is missing, too
    large, no text, or empty."""
    try:
        if Path(path).stat().st_size > MAX_PROMPT_BYTES:
            raise InputError(f"{Path(path).name}: a file of prompts has at most {MAX_PROMPT_BYTES >> 20} MB")
        return prompt_lines(Path(path).read_text(encoding="utf-8-sig"), Path(path).name)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts: {Path(path).name} cannot be read as text ({error}); give a UTF-8 file with a prompt a line") from error


def prompt_lines(text: str, source: str = "prompts") -> list[str]:
    """Return the lines of `text` that say something, each once. Raises :class:`InputError` for none and for more than 4096."""
    found = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not 1 <= len(found) <= MAX_PROMPTS:
        raise InputError(f"{source}: {len(found)} prompts were given; expected 1 to {MAX_PROMPTS}, one a line")
    return found


def orchard_prompts(count: int) -> list[str]:
    """Return `count` prompts of the Orchard's named fruits in English and Chinese, without those that tests keep unseen."""
    import random

    from ...orchard.captions import name_caption
    from ...orchard.entities import entities

    rng, known = random.Random("few steps"), [entity for entity in entities() if entity.split != "unseen"]
    chosen = [known[i % len(known)] for i in range(min(count, MAX_PROMPTS - 1))]
    return [name_caption(entity.scene(rng, style="fine"), entity, ("en", "zh")[i % 2]) for i, entity in enumerate(chosen)]
