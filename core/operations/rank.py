"""Ranking of prompts by their texts, or by the pictures that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..progress import track

if TYPE_CHECKING:
    from ..knowledge.graph import KnowledgeGraph
    from ..scoring.clip_score import ClipScorer

Rank = Callable[[Sequence[str]], Sequence[float]]
STEPS, CFG = 8, 4.0


def list_scorers() -> list[str]:
    """Return the text bundles that have an image bundle beside them. Pre-trained ones come first, because they compare best."""
    from ..bundles.find import list_bundles, resolve_bundle
    from ..paths import image_bundle_path

    found = [name for name in list_bundles("text") if image_bundle_path(resolve_bundle(name, "text")).is_file()]
    return sorted(found, key=lambda name: ("pretrained" not in name, name))


def make_rank(original: str, scorer: str, knowledge: KnowledgeGraph | None, parts: Sequence[Any], seed: int) -> Rank:
    """Return the rank by `scorer`, a name of :func:`list_scorers`. `parts` are a MODEL, a CLIP, a VAE and a LATENT to draw each candidate
    with, or four times None. Raises :class:`InputError` where only some of them are given."""
    from ..bundles.find import resolve_bundle
    from ..scoring.clip_score import load_scorer

    given = [part is not None for part in parts]
    if any(given) and not all(given):
        raise InputError("best_of clip draws with diffusion_model, clip, vae and latent together: link all four, or none to compare texts")
    judge = load_scorer(resolve_bundle(scorer, "text"), knowledge)
    return picture_rank(judge, original, parts, seed) if all(given) else text_rank(judge, original)


def text_rank(scorer: ClipScorer, original: str) -> Rank:
    """Return a rank by the similarity of a candidate's text and `original` in the space of `scorer`; no picture is drawn."""

    def rank(texts: Sequence[str]) -> list[float]:
        vectors = scorer.texts([original, *texts])
        return [float(cosine) for cosine in vectors[1:] @ vectors[0]]

    return rank


def picture_rank(scorer: ClipScorer, original: str, parts: Sequence[Any], seed: int) -> Rank:
    """Return a rank by the similarity of `original` and the candidate's picture, drawn from one noise for all in few steps."""
    from ..host import SamplingRun, current

    model, clip, vae, latent = parts
    host = current()

    def draw(text: str) -> Any:
        first = {**latent, "samples": latent["samples"][:1]}
        conds = host.clip.encode(clip, text), host.clip.encode(clip, "")
        samples = host.sampling.sample(
            host.sampling.make_guider(model, *conds, CFG), first, SamplingRun(seed, STEPS, "dpmpp_2m", "karras")
        )["samples"]
        return host.vae.decode(vae, samples)[:1].cpu().float().permute(0, 3, 1, 2) * 2 - 1

    def rank(texts: Sequence[str]) -> list[float]:
        return [float(scorer.score(draw(text), [original])[0]) for text in track(texts, len(texts), "ranking", "prompt")]

    return rank
