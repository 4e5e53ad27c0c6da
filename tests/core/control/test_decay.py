"""Guess mode: the decay over depth, on a control adapter in the headless host, and the presets of the bridge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rapiddraw.core.bridge.latent import EARLY_END, EARLY_STRENGTH, Fusion, guessing
from rapiddraw.core.bridge.side import Side
from rapiddraw.core.control.decay import depth_decay
from rapiddraw.core.errors import InputError
from rapiddraw.core.host import current


def test_twelve_skips_have_the_factors_of_controlnet() -> None:
    assert depth_decay(12) == pytest.approx([0.825 ** (12 - index) for index in range(12)])
    assert depth_decay(4)[0] == pytest.approx(0.825**12) and depth_decay(4) == sorted(depth_decay(4)) and depth_decay(0) == []


@pytest.fixture(scope="module")
def steered(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(MODEL, CONDITIONING with a control adapter, the adapter)."""
    from rapiddraw.tests.helpers import write_control

    host = current()
    model, clip, _ = host.load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))
    control = host.control.load(
        write_control(tmp_path_factory.mktemp("c") / "c.safetensors", tiny_weights / "tiny-unet.safetensors"), "edges"
    )
    control = (
        control.copy()
        .set_cond_hint(torch.rand(1, 3, 32, 32), 0.7)
        .set_previous_controlnet(control.copy().set_cond_hint(torch.rand(1, 3, 32, 32)))
    )
    return model, [[tokens, {**more, "control": control}] for tokens, more in host.clip.encode(clip, "a fruit")], control


def test_residuals_for_the_skips_decay_and_the_middle_stays(steered: Any) -> None:
    model, prompt, control = steered
    ((_, details),) = current().control.in_guess_mode(prompt)
    control = control.copy().set_previous_controlnet(None)
    guess = details["control"].copy().set_previous_controlnet(None)
    given = (model.model, torch.randn(1, 4, 4, 4), torch.tensor([2.0]), 1, {"c_crossattn": prompt[0][0]})
    plain, decayed = control.get_control(*given), guess.get_control(*given)
    factors = depth_decay(len(plain["output"]))
    for skip, other, factor in zip(plain["output"], decayed["output"], factors, strict=True):
        torch.testing.assert_close(other, skip * factor)
    assert torch.equal(plain["middle"][0], decayed["middle"][0])
    assert details["control"].previous_controlnet.decays and not steered[2].decays and prompt[0][1]["control"] is steered[2]


def test_the_presets(steered: Any) -> None:
    model, prompt, _ = steered
    side, fusion = Side(model, None, prompt, prompt, 3.0), Fusion(0.5, 0.1, 0.8, 2)
    assert guessing(side, fusion, "off") == (side, fusion)
    assert guessing(side, fusion, "early window") == (side, Fusion(EARLY_STRENGTH, 0.0, EARLY_END, 2))
    decayed, same = guessing(side, fusion, "decay over depth")
    assert same == fusion and decayed.positive[0][1]["control"].decays and "control" not in decayed.negative[0][1]
    both = guessing(side, fusion, "both")
    assert both[1].strength == EARLY_STRENGTH and both[0].positive[0][1]["control"].decays
    with pytest.raises(InputError, match="early window"):
        guessing(side, fusion, "guess")
