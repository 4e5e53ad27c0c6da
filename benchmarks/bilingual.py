"""Two text encoders beside one: attribute accuracy of English, Chinese and mixed prompts under a Chinese encoder, an English one, and both.

    python -m rapiddraw bench bilingual

PanGu-Draw, section 5, joins a Chinese encoder's features with those of a frozen English one. The same U-Net is fitted three times at equal
cost to the same 192 features: both encoders read the prompt, or one reads the prompt and the other the empty prompt throughout. Beside them
stand the shipped U-Net of both encoders, which was fitted longer, and the shipped U-Net of one encoder of both languages.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, EARLIER, Basis, Expectation, at_least, at_most

ENCODERS = {"zh": (0,), "en": (1,), "both": ()}
"""Numbers of the encoders (Chinese first) that read the prompt; () is both."""
SHIPPED, SINGLE = "both, shipped", "one encoder of both languages"
LANGUAGES = ("en", "zh", "mixed")
CFG, STEPS, SIDE, BATCH = 3.0, 20, 128, 16
SETTINGS = {
    "text_lr": 0.0, "trained": "cross_attention", "timesteps": "logit_normal", "lr": 1e-3, "ema": 0.96, "warmup": 10, "joined": 0.25,
    "batch_size": 24,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench bilingual`."""
    parser.add_argument("--count", type=int, default=64, help="pictures an encoder and language (64)")
    parser.add_argument("--train-steps", type=int, default=160, help="steps of each U-Net after its least-squares fit (160)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/bilingual"), help="folder in which the U-Nets are trained and kept (runs/bilingual)"
    )
    parser.add_argument("--data", default="", help="an image folder to train on; without one 3000 pictures of the Orchard are drawn")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis, wanted = Basis(args.count), {}
    for language, other in (("en", "zh"), ("zh", "en")):
        gain = f"attribute accuracy that both encoders add to the {other} one alone, prompts in {language}"
        loss = f"attribute accuracy that both encoders lose to the {language} one alone, prompts in {language}"
        wanted[f"gain {language}"] = Expectation(gain, at_least(0.2), EARLIER, basis)
        wanted[f"loss {language}"] = Expectation(loss, at_most(0.05), EARLIER, basis)
        to_alone = f"attribute accuracy that both encoders lose to the {language} one alone, prompts in {language}: within 3 points"
        to_single = f"attribute accuracy that the shipped model of both encoders loses to {SINGLE}, prompts in {language}"
        wanted[f"alone {language}"] = Expectation(to_alone, at_most(0.03), CHOSEN, basis)
        wanted[f"single {language}"] = Expectation(to_single, at_most(0.03), CHOSEN, basis)
    mixed = "attribute accuracy that both encoders add to the better one, mixed prompts"
    return wanted | {"mixed": Expectation(mixed, at_least(0.1), EARLIER, basis)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from ..core.metrics.bootstrap import difference, smallest
    from ..core.metrics.orchard import AA_ATTRIBUTES, accuracy_by_picture, evaluation_scenes
    from ..core.orchard.captions import attribute_caption, mixed_caption
    from ..core.scoring.judge import attribute_accuracy, judge_pictures
    from .shipped import shipped, shipped_judge, shipped_parts

    wanted, parts, judge = expectations(args), shipped_parts(knowledge=False), shipped_judge()
    host = parts.host
    clips = tuple(host.clip.load(shipped(f"{language}-text", "text")) for language in ("zh", "en"))
    scenes = [scene for _, scene in evaluation_scenes("seen", args.count)]
    prompts = {language: [attribute_caption(scene, language) for scene in scenes] for language in ("en", "zh")}
    prompts["mixed"] = [mixed_caption(scene, ("en", "zh")[index % 2]) for index, scene in enumerate(scenes)]

    rows: list[dict[str, Any]] = []
    found: dict[tuple[str, str], Any] = {}
    for name, told in {**ENCODERS, SHIPPED: (), SINGLE: None}.items():
        drawn_by = parts.model
        if told is not None:
            drawn_by = host.model.load(shipped("bilingual-unet", "unet") if name == SHIPPED else _unet(name, told, args))
        for language in LANGUAGES:
            encoded = [_encode(host, parts.clip, clips, told, text) for text in prompts[language]]
            pictures = _draw(host, drawn_by, parts.vae, encoded, _encode(host, parts.clip, clips, told, ""))
            predicted, _ = judge_pictures(judge, pictures)
            found[name, language] = accuracy_by_picture(predicted, scenes, AA_ATTRIBUTES)
            shown = {key: round(value, 3) for key, value in attribute_accuracy(predicted, scenes, AA_ATTRIBUTES).items()}
            rows.append({"encoder": name, "prompts": language, "pictures": args.count, **shown})
    checks = []
    for language, other in (("en", "zh"), ("zh", "en")):
        checks.append(wanted[f"gain {language}"].judge(difference(found["both", language], found[other, language])))
        lost = difference(found[language, language], found["both", language])
        checks += [wanted[f"{bound} {language}"].judge(lost) for bound in ("loss", "alone")]
        checks.append(wanted[f"single {language}"].judge(difference(found[SINGLE, language], found[SHIPPED, language])))
    checks.append(wanted["mixed"].judge(smallest([difference(found["both", "mixed"], found[one, "mixed"]) for one in ("zh", "en")])))
    notes = (
        f"{args.count} pictures a cell, {STEPS} steps of dpmpp_2m (simple), CFG {CFG:g}. AA: attribute accuracy. Looks and scenery are "
        "described in words; mixed prompts describe the looks in one language and the scenery in the other. Encoders of 96 features each, "
        f"frozen; cross-attention of the shipped U-Net fitted by least squares, then trained for {args.train_steps} steps; that of "
        f"'{SHIPPED}' is the included file. '{SINGLE}' has 192 features; its U-Net was trained with it for hours."
    )
    return common.result("bilingual", f"python -m rapiddraw bench bilingual --count {args.count}", rows, checks, notes=notes)


def _unet(name: str, told: tuple[int, ...], args: argparse.Namespace) -> Path:
    """Return the U-Net trained for these encoders, from the folder or by training it now."""
    from ..core.orchard.dataset import write_dataset
    from ..core.train import make_recipe
    from ..core.train.loop import Intervals, train
    from .shipped import shipped

    out = args.folder / f"orchard-bilingual-{name}-unet.safetensors"
    if out.is_file():
        return out
    data = Path(args.data or args.folder / "train128")
    if not (data / "captions.jsonl").is_file():
        write_dataset("train", 3000, SIDE, data)
    kinds = {"base": "unet", "align": "text", "vae": "vae", "graph": "kg"}
    bundles = {key: str(shipped(kind, kind)) for key, kind in kinds.items()}
    texts = ",".join(str(shipped(f"{language}-text", "text")) for language in ("zh", "en"))
    dropout = 0.0 if told else 0.15
    recipe = make_recipe("unet", {"data": str(data), **bundles, **SETTINGS, "text": texts, "reads": told, "encoder_dropout": dropout})
    return train(recipe, out, args.train_steps, run_dir=args.folder / f"run-{name}", every=Intervals(save=40)).files[0]


def _encode(host: Any, clip: Any, clips: tuple[Any, Any], told: tuple[int, ...] | None, text: str) -> Any:
    """Return tokens (1, T, 192): those encoders that are `told` read `text`, the other reads the empty prompt."""
    from ..core.text.bilingual import joined_conditioning

    if told is None:
        return host.clip.encode(clip, text)[0][0]
    read = [host.clip.encode(one, text if not told or number in told else "") for number, one in enumerate(clips)]
    return joined_conditioning(read[0], read[1])[0][0]


def _draw(host: Any, model: Any, vae: Any, encoded: list[Any], empty: Any) -> Any:
    """Draw pictures (N, 3, SIDE, SIDE) in [-1, 1]; number i starts from the same noise whichever encoder read its prompt."""
    import torch

    from ..core.metrics.orchard import to_pictures
    from .shipped import sampling

    pictures = []
    for first in range(0, len(encoded), BATCH):
        length = max(tokens.shape[1] for tokens in encoded)
        part = [tokens.repeat(1, length // tokens.shape[1], 1) for tokens in encoded[first : first + BATCH]]
        latent = {"samples": torch.zeros(len(part), 4, SIDE // 8, SIDE // 8)}
        against = [[empty.expand(len(part), -1, -1), {}]]
        drawn = sampling(host, CFG, STEPS, "simple")(model, [[torch.cat(part), {}]], against, latent, first)
        pictures.append(to_pictures(host.vae.decode(vae, drawn)))
    return torch.cat(pictures)
