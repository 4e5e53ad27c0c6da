"""Two text encoders, a resolution's index and attention's entropy inside a ComfyUI process, compared to the embedded host in the same
process; started as inside.py says."""

from __future__ import annotations

import logging
from typing import Any

from inside import MODELS, RESULT, load_pack, relative, write

# isort: split
import torch

found: dict[str, Any] = {}
LATENT = {"samples": torch.zeros(1, 4, 8, 16), "downscale_ratio_spacial": 8}


class Lines(logging.Handler):
    """What the pack's logger says."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run() -> None:
    ours = load_pack()

    host, embedded = ours("core.host").current(), ours("core.host").Host("embedded")
    buckets, bilingual = ours("core.data.buckets"), ours("core.text.bilingual")
    lines = Lines()
    log = logging.getLogger("rapiddraw")
    log.setLevel(logging.INFO)
    log.addHandler(lines)
    weights = MODELS

    def draw(one: Any, model: Any, positive: Any, negative: Any, latent: dict[str, Any] = LATENT) -> torch.Tensor:
        guider, settings = one.sampling.make_guider(model, positive, negative, 3.0), ours("core.host").SamplingRun(3, 3, "euler", "simple")
        return one.sampling.sample(guider, latent, settings)["samples"]

    texts, pictures = [], []
    for one in (host, embedded):
        zh, en = (one.clip.load(weights / f"{name}-text.safetensors") for name in ("zh", "en"))
        positive, negative = (bilingual.encode_bilingual(one, zh, en, text) for text in ("a round (red:1.3) fruit", ""))
        texts.append(positive[0])
        model = one.model.load(weights / "delta-unet.safetensors")
        bilingual.check_width(one, model, positive, "16 + 16")
        pictures.append(draw(one, model, positive, negative))
        try:
            bilingual.check_width(one, model, one.clip.encode(zh, "a"), "16")
        except Exception as error:
            found[f"width_{one.name}"] = f"{type(error).__name__}: {error}"
    found["bilingual_tokens"] = relative(texts[0][0], texts[1][0])
    found["bilingual_pooled"] = relative(texts[0][1]["pooled_output"], texts[1][1]["pooled_output"])
    found["bilingual_picture"] = relative(*pictures)

    drawn: dict[str, list[torch.Tensor]] = {}
    for one in (host, embedded):
        clip, model = one.clip.load(weights / "tiny-text.safetensors"), one.model.load(weights / "index-unet.safetensors")
        plain = one.model.load(weights / "tiny-unet.safetensors")
        found[f"takes_{one.name}"] = [one.model.takes_resolution_index(model), one.model.takes_resolution_index(plain)]
        conds = [one.clip.encode(clip, text) for text in ("a round red fruit", "")]
        for name, index in (("unset", None), ("2", 2), ("5", 5), ("10", 10)):
            told = conds if index is None else [buckets.with_index(cond, index) for cond in conds]
            drawn.setdefault(name, []).append(draw(one, model, *told))
        lines.lines.clear()
        ignored = draw(one, plain, *[buckets.with_index(cond, 3) for cond in conds])
        found[f"ignored_{one.name}"] = [bool(torch.equal(ignored, draw(one, plain, *conds))), "no resolution index" in "".join(lines.lines)]
        if one is host:
            saved = host.model.save(model, RESULT.parent / "saved.safetensors", {})
            found["saved"] = relative(draw(host, host.model.load(saved), *conds), drawn["unset"][0])
            found["saved_in_embedded"] = relative(draw(embedded, embedded.model.load(saved), *conds), drawn["unset"][0])
            found["evaluates"] = host.surgery.evaluate(model, LATENT)() is None
        same = one.attention.scale_entropy(plain, 128, 64)
        found[f"entropy_same_{one.name}"] = bool(torch.equal(draw(one, same, *conds), draw(one, plain, *conds)))
        drawn.setdefault("entropy", []).append(draw(one, one.attention.scale_entropy(plain, 32, 32), *conds))
        drawn.setdefault("plain", []).append(draw(one, plain, *conds))
        patch = ours("core.attention.patch").AttentionPatch("sdpa_math")
        both = one.attention.patch_model(one.attention.scale_entropy(plain, 32, 32), patch)
        found[f"entropy_stacks_{one.name}"] = relative(draw(one, both, *conds), drawn["entropy"][-1])
    found["parity"] = {name: relative(*pair) for name, pair in drawn.items()}
    found["default_is_2"] = relative(drawn["unset"][0], drawn["2"][0])
    found["indices_differ"] = min(relative(drawn["10"][0], drawn["2"][0]), relative(drawn["5"][0], drawn["2"][0]))
    found["entropy_changes"] = relative(drawn["entropy"][0], drawn["plain"][0])
    write(found)


with torch.inference_mode():
    run()
