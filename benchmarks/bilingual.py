"""One prompt language, two encoders: AA of English, Chinese and mixed prompts under a Chinese encoder, an English one, and both.

PanGu-Draw, section 4, whose text is a Chinese encoder's features beside a frozen English one's. The same U-Net, fitted three times at equal
cost to the same 192 features: both encoders told the prompt, or one told and the other given the empty prompt throughout.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common

ENCODERS = {"zh": (0,), "en": (1,), "both": ()}
"""Which of the two encoders, Chinese first, are told the prompt; () is all."""
LANGUAGES = ("en", "zh", "mixed")
CFG, STEPS, SIDE, BATCH = 3.0, 20, 128, 16
SETTINGS = {
    "text_lr": 0.0, "trained": "cross_attention", "timesteps": "logit_normal", "lr": 1e-3, "ema": 0.96, "warmup": 10, "joined": 0.25,
    "batch_size": 24,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=64, help="pictures an encoder and language (64)")
    parser.add_argument("--train-steps", type=int, default=160, help="steps of each U-Net after its least-squares fit (160)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/bilingual"), help="where the U-Nets are trained and kept (runs/bilingual)"
    )
    parser.add_argument("--data", default="", help="an image folder to train on; without one 3000 pictures of the Orchard are drawn")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..core.bundles.find import resolve_bundle
    from ..core.host import current
    from ..core.metrics.orchard import AA_ATTRIBUTES, evaluation_scenes
    from ..core.orchard.captions import attribute_caption, mixed_caption
    from ..core.scoring.judge import attribute_accuracy, judge_pictures, load_judge

    host = current()
    model, clip, vae = host.load_bundles(*(resolve_bundle(f"orchard-{kind}.safetensors", kind) for kind in ("unet", "text", "vae")))
    clips = tuple(host.clip.load(resolve_bundle(f"orchard-{language}-text.safetensors", "text")) for language in ("zh", "en"))
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    scenes = [scene for _, scene in evaluation_scenes("seen", args.count)]
    prompts = {language: [attribute_caption(scene, language) for scene in scenes] for language in ("en", "zh")}
    prompts["mixed"] = [mixed_caption(scene, ("en", "zh")[index % 2]) for index, scene in enumerate(scenes)]

    rows, found = [], {}
    for name, told in {**ENCODERS, "one encoder of both languages": None}.items():
        drawn_by = model if told is None else host.model.load(_unet(name, told, args))
        for language in LANGUAGES:
            encoded = [_encode(host, clip, clips, told, text) for text in prompts[language]]
            pictures = _draw(host, drawn_by, vae, encoded, _encode(host, clip, clips, told, ""))
            predicted, _ = judge_pictures(judge, pictures)
            accuracy = attribute_accuracy(predicted, scenes, AA_ATTRIBUTES)
            found[name, language] = accuracy["AA"]
            shown = {key: round(value, 3) for key, value in accuracy.items()}
            rows.append({"encoder": name, "prompts": language, "pictures": args.count, **shown})
    checks = []
    for language, deaf in (("en", "zh"), ("zh", "en")):
        gain = found["both", language] - found[deaf, language]
        words = f"AA that both encoders add to the {deaf} one alone, prompts in {language}"
        checks.append(common.check(words, round(gain, 3), "at least 0.2", gain >= 0.2))
        loss = found[language, language] - found["both", language]
        words = f"AA that both encoders lose to the {language} one alone, prompts in {language}"
        checks.append(common.check(words, round(loss, 3), "at most 0.05", loss <= 0.05))
    lead = found["both", "mixed"] - max(found["zh", "mixed"], found["en", "mixed"])
    checks.append(common.check("AA that both encoders add to the better one, mixed prompts", round(lead, 3), "at least 0.1", lead >= 0.1))
    notes = (
        f"{args.count} pictures a cell, {STEPS} steps of dpmpp_2m (simple), CFG {CFG:g}. Looks and scenery are described in words; mixed "
        f"prompts say the looks in one language and the scenery in the other. Encoders of 96 features each, frozen; cross-attention of the "
        f"shipped U-Net fitted by least squares, then trained for {args.train_steps} steps. The last encoder is the shipped one of 192 "
        "features, whose U-Net was trained with it for hours."
    )
    return common.result("bilingual", f"python -m rapiddraw bench bilingual --count {args.count}", rows, checks, notes=notes)


def _unet(name: str, told: tuple[int, ...], args: argparse.Namespace) -> Path:
    """The U-Net trained for these encoders, from the folder or now."""
    from ..core.bundles.find import resolve_bundle
    from ..core.orchard.dataset import write_dataset
    from ..core.train import make_recipe
    from ..core.train.loop import Intervals, train

    out = args.folder / f"orchard-bilingual-{name}-unet.safetensors"
    if out.is_file():
        return out
    data = Path(args.data or args.folder / "train128")
    if not (data / "captions.jsonl").is_file():
        write_dataset("train", 3000, SIDE, data)
    parts = {"base": "orchard-unet", "align": "orchard-text", "vae": "orchard-vae", "graph": "orchard-kg"}
    bundles = {key: str(resolve_bundle(f"{value}.safetensors")) for key, value in parts.items()}
    texts = ",".join(str(resolve_bundle(f"orchard-{language}-text.safetensors", "text")) for language in ("zh", "en"))
    dropout = 0.0 if told else 0.15
    recipe = make_recipe("unet", {"data": str(data), **bundles, **SETTINGS, "text": texts, "reads": told, "encoder_dropout": dropout})
    return train(recipe, out, args.train_steps, run_dir=args.folder / f"run-{name}", every=Intervals(save=40)).files[0]


def _encode(host: Any, clip: Any, clips: tuple[Any, Any], told: tuple[int, ...] | None, text: str) -> Any:
    """Tokens (1, T, 192) of `text`, as those encoders read it that are told."""
    from ..core.text.bilingual import joined_conditioning

    if told is None:
        return host.clip.encode(clip, text)[0][0]
    read = [host.clip.encode(one, text if not told or number in told else "") for number, one in enumerate(clips)]
    return joined_conditioning(read[0], read[1])[0][0]


def _draw(host: Any, model: Any, vae: Any, encoded: list[Any], empty: Any) -> Any:
    """Pictures (N, 3, SIDE, SIDE) in [-1, 1]; number i starts from the same noise whoever encoded its prompt."""
    import torch

    from ..core.host import SamplingRun

    pictures = []
    for first in range(0, len(encoded), BATCH):
        length = max(tokens.shape[1] for tokens in encoded)
        part = [tokens.repeat(1, length // tokens.shape[1], 1) for tokens in encoded[first : first + BATCH]]
        latent = {"samples": torch.zeros(len(part), 4, SIDE // 8, SIDE // 8)}
        against = [[empty.expand(len(part), -1, -1), {}]]
        drawn = host.sampling.sample(
            host.sampling.make_guider(model, [[torch.cat(part), {}]], against, CFG), latent, SamplingRun(first, STEPS, "dpmpp_2m", "simple")
        )
        pictures.append(host.vae.decode(vae, drawn["samples"]).permute(0, 3, 1, 2) * 2 - 1)
    return torch.cat(pictures)
