"""A user's own captioning model: BLIP, GIT and other networks of transformers that say in words what a picture shows. Never downloaded.

A folder counts as one where it lies among the language models and its `config.json` names a kind of :data:`KINDS`. It is read as
:mod:`.causal` reads language models: nothing in it is executed and nothing outside it is read. Pictures are prepared by the sizes, means
and deviations in its `preprocessor_config.json`. Chat models (LLaVA, Qwen-VL) are asked through templates, which are programs; they are
not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..errors import BundleError, RapidDrawError
from .causal import first_line, list_models, load_network, load_tokenizer, resolve_model
from .model_folder import offline, read_config, read_json

KINDS = ("blip", "git", "vision-encoder-decoder")
MAX_SIDE, MAX_NEW = 1024, 48
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def list_captioners() -> list[str]:
    """Return the names of the folders of captioning models, relative to the folder of models in which they lie."""
    found = []
    for name in list_models():
        try:
            kind = read_config(resolve_model(name))["model_type"]
        except RapidDrawError:
            continue
        found += [name] if kind in KINDS else []
    return found


@dataclass(frozen=True)
class Captioner:
    """A captioning network, its tokenizer, and how it wants its pictures: the `side` of a square, `mean` and `spread` of the channels."""

    network: Any
    tokenizer: Any
    side: int
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    @torch.no_grad()
    def captions(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> list[str]:
        """Return a caption of each picture (H, W, 3): the network's likeliest words, at most 48 tokens. Raises :class:`BundleError` where
        the network and its tokenizer do not work together."""
        try:
            pixels = torch.stack([self._prepared(picture) for picture in pictures])
            written = self.network.generate(pixel_values=pixels, max_new_tokens=MAX_NEW, do_sample=False)
            return [" ".join(self.tokenizer.decode(row, skip_special_tokens=True).split()) for row in written]
        except Exception as error:  # whatever a strange folder makes transformers say
            raise BundleError(f"the captioning model failed while it wrote ({first_line(error)})") from error

    def _prepared(self, picture: npt.NDArray[np.uint8]) -> torch.Tensor:
        small = Image.fromarray(picture).resize((self.side, self.side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.spread)[:, None, None]


def load_captioner(path: Path) -> Captioner:
    """Load the captioning model in a folder, on the CPU. Raises :class:`BundleError` where that is not possible, and :class:`InputError`
    for a file that is a link to outside."""
    try:
        config = read_config(path)
        if config["model_type"] not in KINDS:
            raise BundleError(f"{path.name}/ is a model of kind {config['model_type']!r:.60}; captioning models are {', '.join(KINDS)}")
        side, mean, spread = _preparation(path, config)
        with offline():
            from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

            tokenizer = load_tokenizer(path, config)
            network = load_network(path, config, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    except RapidDrawError:
        raise
    except BaseException as error:  # tokenizers' panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BundleError(f"transformers cannot load a captioning model from {path.name}/ ({first_line(error)})") from error
    return Captioner(network.eval().requires_grad_(False), tokenizer, side, mean, spread)


def _preparation(path: Path, config: dict[str, Any]) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Return (side, mean, deviation) of the pictures that a network wants, from its settings."""
    settings = read_json(path, "preprocessor_config.json") if (path / "preprocessor_config.json").is_file() else {}
    size = settings.get("size", settings.get("crop_size"))
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    if size is None:
        vision = config.get("vision_config", config.get("encoder", {}))
        size = vision.get("image_size") if isinstance(vision, dict) else None
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= MAX_SIDE:
        raise BundleError(f"{path.name}/preprocessor_config.json does not say the size of pictures (8 to {MAX_SIDE} px a side)")
    found = []
    for key, default in zip(("image_mean", "image_std"), _CLIP, strict=True):
        values = settings.get(key, default)
        good = isinstance(values, list | tuple) and len(values) == 3 and all(isinstance(v, int | float) and abs(v) < 100 for v in values)
        if not good or (key == "image_std" and min(map(abs, values)) < 1e-3):
            raise BundleError(f"{path.name}/preprocessor_config.json has {key}={values!r:.60}; three numbers are expected")
        found.append(tuple(map(float, values)))
    return size, found[0], found[1]
