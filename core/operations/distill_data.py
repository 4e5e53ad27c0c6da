"""Pictures and captions of a folder, encoded once by the CLIP and the VAE of a MODEL's graph, through the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange

from ..data.folder import ImageFolder
from ..data.places import resolve_folder
from ..errors import InputError
from ..host.denoiser import Denoiser
from ..paths import temp_dir
from ..progress import Progress

DEMONSTRATION = 48
"""How many pictures of the Orchard are drawn where no folder is named."""
MAX_TOKEN_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Encoded:
    """`latents` (N, C, ...) in the model's scale; `captions[i]` are the rows of `texts` that describe picture i; row 0 is the empty
    text."""

    latents: torch.Tensor
    texts: list[dict[str, Any]]
    captions: list[list[int]]


def training_folder(name: str, size: int) -> ImageFolder:
    """Return the captioned pictures of the folder `name`, cropped to `size` px; for an empty name, Orchard pictures.

    `name` lies in the input or output folder. Raises :class:`InputError` for a name that leaves them, and :class:`DataError` where
    there is no such folder.
    """
    if name.strip():
        return ImageFolder(resolve_folder(name), size=size)
    from ..orchard.dataset import write_dataset

    drawn = min(max(size, 64), 512)
    root = temp_dir() / f"rapiddraw-orchard-{DEMONSTRATION}-{drawn}"
    if not (root / "captions.jsonl").is_file():
        write_dataset("train", DEMONSTRATION, drawn, root)
    return ImageFolder(root, size=size)


def encode_folder(host: Any, denoiser_of: Any, clip: Any, vae: Any, images: ImageFolder, batch: int) -> Encoded:
    """Return every picture and every caption of `images`, and the empty text, encoded. `denoiser_of()` gives the :class:`Denoiser` of the
    model, after the VAE and the CLIP have run. Raises :class:`InputError` where the captions would not fit into memory."""
    latents = encode_pictures(host, vae, images, batch)
    number: dict[str, int] = {"": 0}
    captions = [[number.setdefault(caption.text, len(number)) for caption in item.captions] for item in images.items]
    encoded = encode_texts(host, clip, list(number))
    denoiser: Denoiser = denoiser_of()
    made = [denoiser.condition(one, tuple(latents.shape[1:])) for one in encoded.values()]
    texts = [{key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in one.items()} for one in made]
    return Encoded(denoiser.latent(latents).clone(), texts, captions)


def check_texts(count: int, size: int) -> None:
    """Raise :class:`InputError` where the states of `count` texts, `size` bytes, do not fit into memory."""
    if size > MAX_TOKEN_BYTES:
        raise InputError(
            f"{count} different texts do not fit into {MAX_TOKEN_BYTES >> 30} GB of memory; use a smaller folder, or fewer prompts"
        )


def encode_texts(host: Any, clip: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Return the CONDITIONING of each text. Raises :class:`InputError` where they would not fit into memory."""
    encoded: dict[str, Any] = {}
    taken, wanted = 0, list(dict.fromkeys(texts))
    with Progress(len(wanted), "encoding texts", "text") as bar:
        for text in wanted:
            encoded[text] = host.clip.encode(clip, text)
            taken += encoded[text][0][0].nbytes
            check_texts(len(wanted), taken)
            bar.update()
    return encoded


def encode_pictures(host: Any, vae: Any, images: ImageFolder, batch: int, most: int | None = None) -> torch.Tensor:
    """Return the unscaled latents (N, C, ...) of every picture of `images`, or of the first `most`, `batch` at a time."""
    parts, whole = [], len(images) if most is None else min(most, len(images))
    with Progress(whole, "encoding pictures", "image") as bar:
        for first in range(0, whole, batch):
            count = min(batch, whole - first)
            pictures = (rearrange([images.image(first + i) for i in range(count)], "b c h w -> b h w c") + 1) / 2
            made = host.vae.encode(vae, pictures).float().cpu()
            if len(made) != count:  # a video VAE takes a batch for the frames of one video
                made = torch.cat([host.vae.encode(vae, picture[None]).float().cpu() for picture in pictures])
            parts.append(made)
            bar.update(count)
    return torch.cat(parts)
