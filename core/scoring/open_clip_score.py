"""Embeddings of pictures and texts by a model of the package open_clip and the user's file of its weights."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..bundles.format import load_foreign
from ..checkpoint.pickled import read_pickled
from ..errors import BundleError, InputError
from .extra import import_extra

BATCH = 32


@dataclass(frozen=True)
class OpenClip:
    """A model of open_clip by `name`. `prepare` makes (3, h, w) of a PIL picture, `tokenize` (B, length) of texts."""

    name: str
    network: Any
    prepare: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    device: torch.device

    @torch.no_grad()
    def images(self, pictures: Iterable[np.ndarray[Any, Any]]) -> Tensor:
        """Return the embeddings (N, d) of pictures (H, W, 3) uint8 of any sizes, each scaled and cropped as open_clip does."""
        prepared = (self.prepare(Image.fromarray(pixels)) for pixels in pictures)
        rows = []
        while batch := list(islice(prepared, BATCH)):
            rows.append(self.network.encode_image(torch.stack(batch).to(self.device)).float().cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings (N, d) of texts. What is longer than the model reads is cut, as open_clip does."""
        parts = [list(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return torch.cat([self.network.encode_text(self.tokenize(part).to(self.device)).float().cpu() for part in parts])


def check_open_clip(name: str) -> None:
    """Check a model's name before any work.

    Raises :class:`MissingPackageError` without open_clip, and :class:`InputError` for a name that open_clip does not know and for a model
    that would download its tokenizer or its text encoder's settings.
    """
    package = _package()
    known = package.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, 5, 0.4) or known[:5]
        raise InputError(f"open_clip has no model {name!r}; it has {len(known)}, such as {', '.join(near)}")
    text = package.get_model_config(name).get("text_cfg", {})
    if "siglip" in name.lower() or any(text.get(key) for key in ("hf_model_name", "hf_tokenizer_name")):
        raise InputError(
            f"open_clip's {name} would download its tokenizer from Hugging Face; use a model with CLIP's own, such as ViT-B-32"
        )


def load_open_clip(name: str, path: Path, device: torch.device) -> OpenClip:
    """Return open_clip's model `name` with the weights in `path` (`.safetensors`, `.pt`, `.bin`), which is read without running code.

    Raises as :func:`check_open_clip`, and :class:`BundleError` for a file that holds other weights.
    """
    check_open_clip(name)
    package = _package()
    (load_foreign if path.suffix.lower() == ".safetensors" else read_pickled)(path)  # refuses what holds more than plain tensors
    try:
        network, _, prepare = package.create_model_and_transforms(name, pretrained=str(path.resolve()), weights_only=True)
    except Exception as error:  # other weights fail in many ways, none of which names the file
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])[:200]
        raise BundleError(
            f"{path.name} does not hold the weights of open_clip's {name} ({reason}); choose the model of the file"
        ) from error
    return OpenClip(name, network.eval().to(device), prepare, package.get_tokenizer(name), device)


def _package() -> Any:
    return import_extra("open_clip", "open_clip_torch", "a CLIP score by open_clip")
