"""Measures of a folder of pictures with published networks: the FID on Inception features, the CLIP score of an open_clip model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.folder import ImageFolder
from ..errors import InputError
from ..progress import track
from ..scoring.extra import weights_file
from ..scoring.inception import FILE, WIDTH, Inception, check_inception, inception_fid, load_inception
from ..scoring.open_clip_score import OpenClip, check_open_clip, load_open_clip
from .control import clip_score
from .scores import Scores


@dataclass(frozen=True)
class Published:
    """Which networks measure: `inception`, a file of weights; `open_clip`, (the model's name, a file of weights).

    A file is a path, or a name in a weights folder. `None`: not measured.
    """

    inception: str | None = None
    open_clip: tuple[str, str] | None = None


def evaluate_folder(folder: Path, against: Path | None, published: Published, device: torch.device) -> Scores:
    """Measure the pictures of `folder`: their FID to those of `against`, and the cosines with their first captions.

    Raises, before any picture is read, :class:`InputError` for what is missing or does not fit together, :class:`DataError` for a folder
    without pictures or captions, :class:`MissingPackageError` for a package, and :class:`BundleError` for a file.
    """
    if published.inception is None and published.open_clip is None:
        raise InputError("nothing to measure with: give weights of Inception (with pictures to compare with), or an open_clip model")
    if (published.inception is None) != (against is None):
        raise InputError("the FID needs both: weights of Inception, and a folder of pictures to compare with")
    pictures = ImageFolder(folder, captions=published.open_clip is not None)
    others = None if against is None else ImageFolder(against, captions=False)
    for one in (pictures, others):
        if others is not None and one is not None and len(one) < 2:
            raise InputError(f"{one.root} holds one picture, but the FID compares two sets of at least 2, better of {WIDTH} or more")
    inception, model = _load(published, device)
    rows = []
    if inception is not None and others is not None:
        rows.append(_fid(inception, pictures, others))
    if model is not None:
        rows.append(_clip(model, pictures))
    return Scores(tuple(rows))


def _load(published: Published, device: torch.device) -> tuple[Inception | None, OpenClip | None]:
    """Load both networks; packages, names and files of both are checked first."""
    file = weights = None
    if published.inception is not None:
        check_inception()
        file = weights_file(published.inception, FILE)
    if published.open_clip is not None:
        check_open_clip(published.open_clip[0])
        weights = weights_file(published.open_clip[1], f"weights of open_clip's {published.open_clip[0]} (.safetensors, .pt, .bin)")
    inception = None if file is None else load_inception(file, device)
    return inception, None if published.open_clip is None or weights is None else load_open_clip(published.open_clip[0], weights, device)


def _fid(inception: Inception, pictures: ImageFolder, others: ImageFolder) -> tuple[str, float, str]:
    features = [
        inception.features(folder.pixels(i) for i in track(range(len(folder)), len(folder), "Inception", "picture"))
        for folder in (pictures, others)
    ]
    fewest = min(len(pictures), len(others))
    few = f"; WARNING: {fewest} pictures are fewer than {WIDTH}, so the number is biased: too large" if fewest < WIDTH else ""
    said = f"{len(pictures)} pictures against {len(others)}; 0: alike, lower is better; comparable at equal counts only{few}"
    return "FID (Inception, torch-fidelity)", inception_fid(*features), said


def _clip(model: OpenClip, pictures: ImageFolder) -> tuple[str, float, str]:
    texts = model.texts([item.captions[0].text for item in pictures.items])
    images = model.images(pictures.pixels(i) for i in track(range(len(pictures)), len(pictures), "open_clip", "picture"))
    said = (
        f"mean cosine of {len(pictures)} pictures and their first captions, -1 to 1; higher is better; some papers give 100 times as much"
    )
    return f"CLIP score (open_clip {model.name})", float(clip_score(images, texts).mean()), said
