"""The recipe few_step on tiny bundles, and its networks: one network that is student and teacher."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.bundles.format import Schedule
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.fewstep.find import read_student
from rapiddraw.core.host import current
from rapiddraw.core.lowrank.lora import attach_lora
from rapiddraw.core.train import make_recipe
from rapiddraw.core.train.loop import Intervals, train
from rapiddraw.core.train.recipes.few_step_files import orchard_prompts, read_prompts
from rapiddraw.core.train.recipes.few_step_networks import Networks
from rapiddraw.tests import helpers

SMALL = {"few": 2, "teacher_steps": 4, "drawn": 4, "size": 64, "rank": 2, "batch_size": 2, "targets": "attention"}


@pytest.fixture
def settings(tiny_weights, tiny_pack):
    named = {"teacher": "unet", "text": "text", "vae": "vae", "graph": "kg"}
    return SMALL | {key: str(tiny_weights / f"tiny-{kind}.safetensors") for key, kind in named.items()}


@pytest.fixture
def learner(tiny_weights, tiny_pack):
    host = current()
    model = host.model.load(tiny_weights / "tiny-unet.safetensors")
    return host.training.denoiser(host.surgery.rebuild(model, lambda network: None), train=True, frozen=True)


def asked(learner):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0.5, 4.0]), {"tokens": torch.ones(2, 3, learner.network.config["cross_attention_dim"])}


def test_bundles_are_distilled_into_a_lora(settings, tmp_path):
    recipe = make_recipe("few_step", settings)
    result = train(recipe, tmp_path / "few.safetensors", 2, run_dir=tmp_path / "run", every=Intervals(evaluate=1), device="cpu")
    about, is_lora = read_student(result.files[0])
    assert is_lora and (about.steps, about.method, about.taught_scale) == (2, "trajectory", 4.0)
    assert "eval_heldout" in result.metrics and (tmp_path / "run" / "samples-00000002.png").is_file()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"teacher": ""}, InputError, "name the bundles"),
        ({"text": "nowhere.safetensors"}, BundleError, "text: no such file"),
        ({"method": "adversarial", "network": "whole"}, InputError, "network=lora"),
        ({"guidance_low": 9.0, "guidance_high": 3.0}, InputError, "is above"),
    ],
)
def test_bad_settings_are_refused(settings, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        train(make_recipe("few_step", settings | changes), tmp_path / "few.safetensors", 1, run_dir=tmp_path / "run", device="cpu")


def test_a_model_of_a_part_of_the_noise_levels_is_refused(settings, tmp_path):
    part = helpers.write_unet(tmp_path / "part.safetensors", schedule=Schedule(t_min=500))
    with pytest.raises(InputError, match="timesteps 500 to 999 alone"):
        train(make_recipe("few_step", settings | {"teacher": str(part)}), tmp_path / "few.safetensors", 1, run_dir=tmp_path / "run")


def test_a_student_that_is_switched_off_is_its_teacher_bit_for_bit(learner):
    x, sigma, text = asked(learner)
    with torch.no_grad():
        before = learner.denoise(x, sigma, text)
        lora = attach_lora(learner.network, ("attention",), 2)
        networks = Networks(learner, lora, None, other=True)
        for pair in lora.pairs:
            torch.nn.init.normal_(pair.up)
        assert torch.equal(networks.teacher(x, sigma, text), before)
        assert not torch.equal(networks.student(x, sigma, text), before)
        assert torch.equal(networks.before(x, sigma, text), before)  # its second values are those that it was made with


def test_second_values_follow_the_student(learner):
    x, sigma, text = asked(learner)
    lora = attach_lora(learner.network, ("attention",), 2)
    networks = Networks(learner, lora, None, other=True)
    for pair in lora.pairs:
        torch.nn.init.ones_(pair.up)
    networks.other.follow(0.75, 1)
    networks.other.follow(0.75, 1)  # the same step again
    with networks.other.applied():
        assert all(float(pair.up.detach().mean()) == 0.25 for pair in lora.pairs)
    assert all(float(pair.up.detach().mean()) == 1.0 for pair in lora.pairs)
    networks.other.follow(0.0, 2)
    assert torch.equal(networks.before(x, sigma, text), networks.student(x, sigma, text).detach())


def test_prompts(tmp_path):
    (tmp_path / "p.txt").write_text("\ufeffone\n two \none\n", encoding="utf-8")
    assert read_prompts(str(tmp_path / "p.txt")) == ["one", "two"]
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("p.txt", "missing.txt"):
        with pytest.raises(InputError, match="cannot be read"):
            read_prompts(str(tmp_path / name))
    (tmp_path / "p.txt").write_bytes(b"a\n" * 2**20)
    with pytest.raises(InputError, match="at most 1 MB"):
        read_prompts(str(tmp_path / "p.txt"))
    drawn = orchard_prompts(9)
    assert len(drawn) == 9 and orchard_prompts(9) == drawn
