"""The benchmark of two text encoders on tiny models: every cell is there, whatever the figures."""

from __future__ import annotations

import argparse

import pytest
from rapiddraw.benchmarks import bilingual
from rapiddraw.core import paths
from rapiddraw.tests import helpers


def test_every_encoder_meets_every_language(tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    for name, write, more in (("unet", helpers.write_unet, {}), ("bilingual-unet", helpers.write_unet, {"seed": 9}),
                              ("vae", helpers.write_vae, {}), ("text", helpers.write_text, {}),
                              ("zh-text", helpers.write_text, {"width": 16}), ("en-text", helpers.write_text, {"width": 16}),
                              ("kg", helpers.write_kg, {})):  # fmt: skip
        write(weights / f"orchard-{name}.safetensors", **more)
    for name in bilingual.ENCODERS:
        helpers.write_unet(tmp_path / f"orchard-bilingual-{name}-unet.safetensors", seed=len(name))
    monkeypatch.setattr(paths, "weights_dirs", lambda: [weights, paths.pack_root() / "weights"])  # the shipped judge reads the pictures
    monkeypatch.setattr(bilingual, "STEPS", 1)
    monkeypatch.setattr(bilingual, "SIDE", 32)
    outcome = bilingual.run(argparse.Namespace(count=2, train_steps=1, folder=tmp_path, data=""))
    assert {(row["encoder"], row["prompts"]) for row in outcome["rows"]} >= {
        (e, p) for e in (*bilingual.ENCODERS, bilingual.SHIPPED, bilingual.SINGLE) for p in bilingual.LANGUAGES
    }
    assert len(outcome["rows"]) == 15
    wanted = bilingual.expectations(argparse.Namespace(count=2))
    assert {check["claim"] for check in outcome["checks"]} == {one.claim for one in wanted.values()} and len(outcome["checks"]) == 9
    assert sum(check["expected"] == "at most 0.03" for check in outcome["checks"]) == 4


def test_mixed_prompts_say_the_looks_in_one_language_and_the_place_in_the_other():
    from rapiddraw.core.errors import InputError
    from rapiddraw.core.metrics.orchard import evaluation_scenes
    from rapiddraw.core.orchard.captions import mixed_caption

    scene = evaluation_scenes("seen", 1)[0][1]
    english, chinese = mixed_caption(scene, "en"), mixed_caption(scene, "zh")
    assert english.startswith("a photo of") and not english.isascii() and english.split()[-1].isascii() is False
    assert chinese.split()[-1].isascii() and not chinese.split()[0].isascii()
    with pytest.raises(InputError):
        mixed_caption(scene, "fr")
