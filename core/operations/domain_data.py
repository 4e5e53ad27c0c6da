"""A folder of pictures for the training of a MODEL: captions, aspect buckets, a split, and latents and texts through the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from ..data.buckets import Size, nearest_bucket
from ..data.folder import ImageFolder
from ..data.places import resolve_folder
from ..errors import DataError, InputError
from ..host.denoiser import Denoiser, together
from ..orchard.claim import INDEX
from ..orchard.new_fruits import write_new_fruits
from ..paths import temp_dir
from ..progress import Progress
from ..text.templates import OBJECT, apply_template
from ..train.recipe import derived_seed
from .distill_data import check_texts

DEMONSTRATION = 16
"""How many pictures of one new fruit are drawn where no folder is named."""
FEWEST = 3
"""Pictures that a training needs."""
HELD_OUT_FROM = 10
"""Pictures from which on a tenth is held out for validation and a tenth for the test; smaller folders are trained on whole."""
MAX_RATIO = 2.0


@dataclass(frozen=True)
class Framing:
    """How pictures are brought to sizes: `size` pixels a side of a square, `buckets` of other aspect ratios of the same area, `flip`
    mirrored copies."""

    size: int = 512
    buckets: bool = True
    flip: bool = False

    def sizes(self) -> list[Size]:
        """Return (height, width) of the buckets, the square first. Sides are multiples of 64 px from 512 on, else of 32 or 8."""
        step = 64 if self.size >= 512 else 32 if self.size >= 256 else 8
        square = max(step, self.size // step * step)
        found = [(square, square)]
        for height in range(step, int(square * math.sqrt(MAX_RATIO)) + 1, step) if self.buckets else ():
            width = square * square // height // step * step
            if width and max(height / width, width / height) <= MAX_RATIO and (height, width) != (square, square):
                found.append((height, width))
        return found


@dataclass(frozen=True)
class Pictures:
    """A folder that was read but not encoded. `captions[i]` describe picture i, `sizes[i]` is its bucket's (height, width)."""

    images: ImageFolder
    captions: list[list[str]]
    sizes: list[Size]
    parts: Mapping[str, list[int]]
    notes: list[str]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Prepared:
    """The folder encoded. `latents[i]` are one or two (C, h, w): picture i, and its mirror image; `texts` by (text, latent shape)."""

    latents: list[list[torch.Tensor]]
    texts: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = field(repr=False)


def open_domain(folder: str, framing: Framing, template: str, subject: str, seed: int) -> Pictures:
    """Return the pictures of `folder` (in the input or output folder, or a path that a command gave; "" draws a new fruit of the Orchard).

    A picture without a caption gets the lines of `template` with its subject in the place of `{object}`: `subject`, else the name of the
    folder inside `folder` that holds the picture. Every file's header is read. Raises :class:`InputError` and :class:`DataError`, in one
    line, for a folder that cannot be trained on.
    """
    images = _images(folder, framing.size)
    if len(images) < FEWEST:
        raise DataError(f"{images.root} holds {len(images)} picture(s); a training needs at least {FEWEST}, and 20 or more are better")
    templates = [line for line in template.splitlines() if line.strip()] or [f"a photo of {OBJECT}"]
    for line in templates:
        apply_template(line, "x")
    captions, without = [], []
    for item in images.items:
        inside = item.path.parent.name if item.path.parent.resolve() != images.root.resolve() else ""
        name = subject.strip() or inside.replace("_", " ").strip()
        if not item.captions and not name:
            without.append(item.path.name)
        captions.append([one.text for one in item.captions] or [apply_template(line, name) for line in templates])
    if without:
        raise DataError(
            f"{len(without)} of {len(images)} pictures have no caption, such as {without[0]}: give subject, the name of what they show, or "
            "put a .txt with a caption beside each, or put them into a folder named after it"
        )
    shapes = [images.shape(i) for i in range(len(images))]
    buckets = framing.sizes()
    sizes = [buckets[nearest_bucket(*shape, buckets)] for shape in shapes]
    small = sum(min(shape) < min(size) for shape, size in zip(shapes, sizes, strict=True))
    made = sum(not item.captions for item in images.items)
    notes = [f"{made} of {len(images)} pictures have captions by the template"] if made else []
    notes += [f"{small} of {len(images)} pictures are smaller than they are trained at, and enlarged"] if small else []
    notes += ["sizes: " + ", ".join(f"{w}x{h} ({sizes.count((h, w))})" for h, w in sorted(set(sizes)))]
    return Pictures(images, captions, sizes, split(len(images), seed), notes)


def split(count: int, seed: int) -> dict[str, list[int]]:
    """Return the pictures to train on, to validate and to test with: 80, 10 and 10 per cent (Rapid Diffusion, appendix B)."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(seed, "split"))).tolist()
    tenth = round(count / 10) if count >= HELD_OUT_FROM else 0
    return {"validation": sorted(order[:tenth]), "test": sorted(order[tenth : 2 * tenth]), "train": sorted(order[2 * tenth :])}


def check_parts(host: Any, model: Any, clip: Any, vae: Any, pictures: Pictures, size: int) -> Any:
    """Return the CONDITIONING of the empty text. Raises :class:`InputError`, before anything else is encoded, where MODEL, CLIP and VAE do
    not belong together, and where the captions do not fit into memory."""
    conditioning = host.clip.encode(clip, "")
    width, given = host.model.attended_width(model), conditioning[0][0].shape[-1]
    if width is not None and width != given:
        raise InputError(f"the CLIP gives tokens of {given} features and the model reads {width}; link the CLIP that belongs to the model")
    host.training.check(model, conditioning, size)
    first, space = _encoded(host, vae, pictures, [0], False), model.get_model_object("latent_format")
    channels = getattr(space, "latent_channels", None) or space.channels
    if first.shape[1] != channels:
        raise InputError(f"the VAE gives latents of {first.shape[1]} channels and the model takes {channels}; link the VAE of the model")
    captions = {line for lines in pictures.captions for line in lines}
    check_texts(len(captions), len(captions) * conditioning[0][0].nbytes)
    return conditioning


def encode_pictures(host: Any, vae: Any, pictures: Pictures, flip: bool, batch: int = 4) -> list[list[torch.Tensor]]:
    """Return the unscaled latents (C, h, w) of every picture, and with `flip` those of its mirror image too."""
    found: list[list[torch.Tensor]] = [[] for _ in range(len(pictures))]
    with Progress(len(pictures), "encoding pictures", "image") as bar:
        for size in sorted(set(pictures.sizes)):
            members = [i for i, one in enumerate(pictures.sizes) if one == size]
            for chosen in (members[first : first + batch] for first in range(0, len(members), batch)):
                for mirrored in (False, True) if flip else (False,):
                    for i, latent in zip(chosen, _encoded(host, vae, pictures, chosen, mirrored), strict=True):
                        found[i].append(latent.clone())
                bar.update(len(chosen))
    return found


def prepare(denoiser: Denoiser, latents: list[list[torch.Tensor]], texts: Mapping[str, Any], captions: list[list[str]]) -> Prepared:
    """Return latents in the model's scale, and the model's conditions for every picture's texts and the empty text at its size."""
    scaled = [[denoiser.latent(one[None])[0].clone() for one in both] for both in latents]
    made: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    for both, lines in zip(scaled, captions, strict=True):
        shape = tuple(both[0].shape)
        for text in ("", *lines):
            if (text, shape) not in made:
                made[text, shape] = owned(denoiser.condition(texts[text], shape))
    return Prepared(scaled, made)


def owned(condition: Mapping[str, Any]) -> dict[str, Any]:
    """Return a condition with tensors of its own, which gradients may meet: those made in inference mode may not."""
    with torch.inference_mode(False):
        return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in condition.items()}


def to_device(value: Any, device: torch.device) -> Any:
    """Return a condition, or a list of them, with its tensors on `device`."""
    if isinstance(value, list):
        return [to_device(one, device) for one in value]
    return {key: one.to(device) if isinstance(one, torch.Tensor) else one for key, one in value.items()}


def evaluator(denoiser: Denoiser, conditions: Sequence[Mapping[str, Any]]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the function (x, sigma) -> `denoised` of a model for one condition a picture.

    Where the conditions cannot be joined to one batch, or only by repeating all of their texts, pictures are evaluated one by one."""
    given = to_device(list(conditions), denoiser.device)
    if not denoiser.batches:
        return lambda x, sigma: denoiser.denoise(x, sigma, given)
    lengths = {one["tokens"].shape[1] for one in given}
    if math.lcm(*lengths) == max(lengths):
        joined = together(given)
        return lambda x, sigma: denoiser.denoise(x, sigma, joined)
    return lambda x, sigma: torch.cat([denoiser.denoise(x[i : i + 1], sigma[i : i + 1], one) for i, one in enumerate(given)])


class BucketOrder:
    """Batches of one size each as a pure function of their number: every epoch shuffles the pictures of each size, cuts them into batches
    (the last is filled up from the start), and shuffles the batches."""

    def __init__(self, members: Sequence[Sequence[int]], batch_size: int, seed: int) -> None:
        self.members = [list(one) for one in members if one]
        self.batch_size, self.seed = batch_size, seed
        self.batches = sum(math.ceil(len(one) / batch_size) for one in self.members)
        self._epochs: dict[int, list[list[int]]] = {}

    def indices(self, index: int) -> list[int]:
        """Return the pictures of batch `index`."""
        epoch = index // self.batches
        if epoch not in self._epochs:
            self._epochs = {e: made for e, made in self._epochs.items() if e >= epoch - 1} | {epoch: self._epoch(epoch)}
        return self._epochs[epoch][index % self.batches]

    def _epoch(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "buckets", epoch))
        made: list[list[int]] = []
        for members in self.members:
            order = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
            filled = order * (1 + self.batch_size // len(order) + 1)
            made += [filled[first : first + self.batch_size] for first in range(0, len(order), self.batch_size)]
        return [made[i] for i in torch.randperm(len(made), generator=generator).tolist()]


def _images(folder: str, size: int) -> ImageFolder:
    name = folder.strip()
    if not name:
        root = temp_dir() / f"rapiddraw-new-fruit-{DEMONSTRATION}-{min(max(size, 64), 512)}"
        if not (root / INDEX).is_file():
            write_new_fruits(root, DEMONSTRATION, min(max(size, 64), 512), fruits=1)
        return ImageFolder(root, captions=False)
    if Path(name).is_absolute():
        raise InputError(f"folder={name!r}: expected a name inside the input folder or the output folder")
    return ImageFolder(resolve_folder(name), captions=False)


def _encoded(host: Any, vae: Any, pictures: Pictures, chosen: Sequence[int], mirrored: bool) -> torch.Tensor:
    stacked = torch.stack([pictures.images.fitted(i, *pictures.sizes[i]) for i in chosen])
    images = (rearrange(stacked.flip(-1) if mirrored else stacked, "b c h w -> b h w c") + 1) / 2
    made: torch.Tensor = host.vae.encode(vae, images).float().cpu()
    if len(made) != len(chosen):  # a video VAE takes a batch for the frames of one video
        made = torch.cat([host.vae.encode(vae, image[None]).float().cpu() for image in images])
    return made
