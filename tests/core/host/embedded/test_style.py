"""Style guidance in the embedded host: free and identical at scale 0, one evaluation a style, sums of styles, a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import InputError
from rapiddraw.core.host import SamplingRun, Stage, current
from rapiddraw.core.host.embedded.model import Model, load_model


def conditioning(seed: int) -> list[list[Any]]:
    return [[torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(seed)), {}]]


PROMPT, NEGATIVE, STYLE, OTHER = (conditioning(seed) for seed in range(4))


@pytest.fixture
def model(tiny_weights: Path) -> Model:
    return load_model(load_bundle(tiny_weights / "tiny-unet.safetensors"), torch.device("cpu"))


def draw(model: Model, name: str = "euler", cfg: float = 3.0) -> torch.Tensor:
    latent = {"samples": torch.zeros(2, 4, 4, 4)}
    return current().sampling.sample(
        current().sampling.make_guider(model, PROMPT, NEGATIVE, cfg), latent, SamplingRun(1, 4, name, "normal")
    )["samples"]


def styled(model: Model, style: Any = STYLE, scale: float = 4.0, start: float = 0.0, end: float = 1.0) -> Model:
    return current().style.guide(model, style, scale, start, end)


def counting(model: Model) -> tuple[Model, list[int]]:
    clone, calls = model.clone(), []

    def wrapper(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
        calls.append(len(call["input"]))
        return apply_model(call["input"], call["timestep"], **call["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    return clone, calls


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m_sde"])
def test_scale_0_is_plain_guidance_and_costs_nothing(model: Model, name: str, cfg: float) -> None:
    seen, calls = counting(model)
    plain, cost = draw(seen, name, cfg), list(calls)
    calls.clear()
    assert torch.equal(draw(styled(seen, scale=0.0), name, cfg), plain) and calls == cost


def test_a_style_costs_one_evaluation_a_step_while_it_acts(model: Model) -> None:
    seen, calls = counting(model)
    draw(styled(seen))
    assert calls == [4, 2] * 4
    calls.clear()
    draw(styled(styled(seen), OTHER))
    assert calls == [4, 2, 2] * 4
    calls.clear()
    assert torch.equal(draw(styled(seen, start=0.0, end=0.0)), draw(model))
    assert calls == [4] * 4
    calls.clear()
    draw(styled(seen, start=0.5))
    assert 4 < len(calls) < 8


def test_the_source_stays_as_it_was_and_styles_add_up(model: Model) -> None:
    plain = draw(model)
    one = draw(styled(model, scale=3.0))
    assert not torch.equal(one, plain) and torch.equal(draw(model), plain)
    torch.testing.assert_close(draw(styled(styled(model, scale=1.0), scale=2.0)), one, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(draw(styled(model, PROMPT)), plain, rtol=1e-3, atol=1e-3)


def test_a_style_belongs_to_its_model_of_a_pair(model: Model) -> None:
    pair = (styled(model), model)
    latent = {"samples": torch.zeros(2, 4, 4, 4)}
    for t_struct, expected in ((0, pair[0]), (1000, pair[1])):
        guider = current().time_decoupled.make_guider([Stage(pair[0], PROMPT, NEGATIVE, 3.0, t_struct), Stage(pair[1], None, None, 3.0)])
        out = current().time_decoupled.sample(guider, latent, SamplingRun(1, 4, "euler", "normal"), "keep")["samples"]
        assert torch.equal(out, draw(expected))


def test_what_cannot_be_is_refused(model: Model) -> None:
    for bad in ((0.6, 0.5), (-0.1, 1.0), (0.0, 1.5), (float("nan"), 1.0)):
        with pytest.raises(InputError, match="start_percent"):
            styled(model, start=bad[0], end=bad[1])
    with pytest.raises(InputError, match="finite"):
        styled(model, scale=float("nan"))


def test_a_style_that_is_the_prompt_is_neutral_with_a_control_adapter(model: Model, tiny_weights: Path, tmp_path: Path) -> None:
    from rapiddraw.tests.helpers import write_control

    control = current().control.load(write_control(tmp_path / "control.safetensors", tiny_weights / "tiny-unet.safetensors"), "edges")
    control = control.copy().set_cond_hint(torch.rand(1, 3, 32, 32), 1.0)
    steered = [[tokens, {**more, "control": control}] for tokens, more in PROMPT]

    def drawn(one: Model) -> torch.Tensor:
        guider = current().sampling.make_guider(one, steered, NEGATIVE, 3.0)
        return current().sampling.sample(guider, {"samples": torch.zeros(1, 4, 4, 4)}, SamplingRun(1, 3, "euler", "normal"))["samples"]

    torch.testing.assert_close(drawn(styled(model, PROMPT)), drawn(model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(drawn(styled(model, OTHER)), drawn(model), rtol=1e-3, atol=1e-3)
