"""Pictures and captions as a MODEL sees them: encoded once by the CLIP and the VAE of the same graph, through the host."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.folder import ImageFolder
from ..errors import InputError
from ..host.denoiser import Denoiser
from ..paths import input_dir, safe_join, temp_dir
from ..progress import Progress

DEMONSTRATION = 48
"""How many pictures of the Orchard stand in for a folder that was not named."""
MAX_TOKEN_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Encoded:
    """`latents` (N, C, h, w) in model space; `captions[i]` are the rows of `texts` that say what picture i shows; row 0 is no text."""

    latents: torch.Tensor
    texts: list[dict[str, torch.Tensor]]
    captions: list[list[int]]


def training_folder(name: str, size: int) -> ImageFolder:
    """The captioned pictures of the folder `name` inside the input folder, cropped to `size` px; pictures of the Orchard for an empty name.

    Raises :class:`InputError` for a name that leads out of the input folder and :class:`DataError` for what is no such folder.
    """
    if name.strip():
        return ImageFolder(safe_join(input_dir(), name.strip()), size=size)
    from ..orchard.dataset import write_dataset

    drawn = min(max(size, 64), 512)
    root = temp_dir() / f"rapiddraw-orchard-{DEMONSTRATION}-{drawn}"
    if not (root / "captions.jsonl").is_file():
        write_dataset("train", DEMONSTRATION, drawn, root)
    return ImageFolder(root, size=size)


def encode_folder(host: Any, denoiser_of: Any, clip: Any, vae: Any, images: ImageFolder, batch: int) -> Encoded:
    """Every picture and every caption of `images`, and the empty text. `denoiser_of()` gives the :class:`Denoiser` of the model, once the
    VAE and the CLIP are done with the memory. Raises :class:`InputError` where the captions would not fit into memory."""
    latents = _encode_pictures(host, vae, images, batch)
    number: dict[str, int] = {"": 0}
    captions = [[number.setdefault(caption.text, len(number)) for caption in item.captions] for item in images.items]
    encoded, taken = [], 0
    with Progress(len(number), "encoding texts", "text") as bar:
        for text in number:
            encoded.append(host.clip.encode(clip, text))
            taken += encoded[-1][0][0].numel() * 4
            if taken > MAX_TOKEN_BYTES:
                raise InputError(
                    f"{len(number)} different captions do not fit into {MAX_TOKEN_BYTES >> 30} GB of memory; use a smaller folder, or the "
                    "recipe `python -m rapiddraw train distill`, which encodes them as it goes"
                )
            bar.update()
    denoiser: Denoiser = denoiser_of()
    side = (int(latents.shape[2]), int(latents.shape[3]))
    texts = [{key: tensor.clone() for key, tensor in denoiser.condition(one, side).items()} for one in encoded]
    return Encoded(denoiser.latent(latents).clone(), texts, captions)


def together(conditions: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One condition of a batch. Texts of fewer tokens are repeated, as ComfyUI does: attention to a text twice over is attention to it."""
    longest = math.lcm(*(one["tokens"].shape[1] for one in conditions))
    joined = {"tokens": torch.cat([one["tokens"].repeat(1, longest // one["tokens"].shape[1], 1) for one in conditions])}
    if "y" in conditions[0]:
        joined["y"] = torch.cat([one["y"] for one in conditions])
    return joined


def _encode_pictures(host: Any, vae: Any, images: ImageFolder, batch: int) -> torch.Tensor:
    parts = []
    with Progress(len(images), "encoding pictures", "image") as bar:
        for first in range(0, len(images), batch):
            count = min(batch, len(images) - first)
            pictures = torch.stack([images.image(first + i) for i in range(count)]).permute(0, 2, 3, 1)
            parts.append(host.vae.encode(vae, (pictures + 1) / 2).float().cpu())
            bar.update(count)
    return torch.cat(parts)


def folder_digest(folder: str) -> str:
    """What changes when a training folder does: its files' names, sizes and times; "" for a folder that is not there or not named."""
    if not folder.strip():
        return ""
    try:
        root: Path = safe_join(input_dir(), folder.strip())
        listed = sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file())
        return hashlib.sha256(repr(listed).encode()).hexdigest()
    except (InputError, OSError):
        return ""
