"""The time-decoupled and style nodes: what they show, and that they hand everything to the host in the right place."""

from __future__ import annotations

import inspect

import pytest
import torch
from rapiddraw.core import host
from rapiddraw.core.graph.inputs import input_specs
from rapiddraw.core.host import SamplingRun, Stage
from rapiddraw.nodes import style, time_decoupled
from rapiddraw.nodes.style import StyleGuidance
from rapiddraw.nodes.time_decoupled import SplitSigmasAtTimestep, TimeDecoupledGuider, TimeDecoupledModel, TimeDecoupledSampler

NODES = {**time_decoupled.NODE_CLASS_MAPPINGS, **style.NODE_CLASS_MAPPINGS}
PAIR = {"structure": "S", "texture": "T", "positive": "p", "negative": "n", "structure_cfg": 4.0, "texture_cfg": 2.0, "t_struct": 300}


class Recording:
    """Records a call on any of its attributes as (name, what was given)."""

    def __getattr__(self, name):
        return lambda *given: (name, *given)


class RecordingHost:
    time_decoupled = style = Recording()


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(host, "current", RecordingHost, raising=False)


def test_a_guider_is_told_whose_prompt_is_whose(recorded):
    ((name, *given),) = TimeDecoupledGuider().execute(**PAIR)
    assert (name, given) == ("make_guider", [(Stage("S", "p", "n", 4.0, 300), Stage("T", None, None, 2.0, 0))])
    ((_, stages),) = TimeDecoupledGuider().execute(**PAIR, texture_positive="tp")
    assert stages[1] == Stage("T", "tp", None, 2.0)


def test_the_sampler_walks_with_that_guider(recorded):
    walk = {"latent_image": "L", "seed": 1, "steps": 2, "sampler_name": "euler", "scheduler": "simple", "denoise": 0.5, "history": "reset"}
    ((name, guider, *given),) = TimeDecoupledSampler().execute(**PAIR, **walk, texture_negative="tn")
    assert name == "sample" and guider[0] == "make_guider" and guider[1][1] == Stage("T", None, "tn", 2.0)
    assert given == ["L", SamplingRun(1, 2, "euler", "simple", 0.5), "reset"]


def test_model_and_style_are_the_hosts(recorded):
    assert TimeDecoupledModel().execute("S", "T", 7) == (("join", "S", "T", 7),)
    assert StyleGuidance().execute("M", "c", 4.0, 0.1, 0.9) == (("guide", "M", "c", 4.0, 0.1, 0.9),)


def test_sigmas_are_cut_on_the_models_schedule(tiny_weights):
    from rapiddraw.core.bundles.load import load_bundle
    from rapiddraw.core.host.embedded.model import load_model

    model = load_model(load_bundle(tiny_weights / "tiny-unet.safetensors"), torch.device("cpu"))
    high, low = SplitSigmasAtTimestep().execute(model, torch.tensor([14.0, 3.0, 1.0, 0.0]), 500)
    assert high.tolist() == [14.0, 3.0, 1.0] and low.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("node", NODES.values())
def test_execute_takes_what_is_shown(node):
    shown = set(input_specs(node))
    taken = inspect.signature(node.execute).parameters
    assert shown >= {name for name, p in taken.items() if p.kind not in (p.VAR_KEYWORD,)} - {"self"}
    assert any(p.kind == p.VAR_KEYWORD for p in taken.values()) or shown == set(taken) - {"self"}


def test_defaults_are_the_papers():
    specs = input_specs(TimeDecoupledSampler)
    assert {name: specs[name].default for name in ("t_struct", "steps", "structure_cfg", "texture_cfg", "history")} == {
        "t_struct": 500, "steps": 40, "structure_cfg": 6.0, "texture_cfg": 6.0, "history": "keep"}  # fmt: skip
    assert input_specs(StyleGuidance)["style_scale"].default == 4.0
    assert {"euler", "heun", "plms", "f_pndm"} <= set(specs["sampler_name"].choices) and "karras" in specs["scheduler"].choices
