"""The recipe `distill` on tiny bundles: it learns, carries the teacher's prediction, resumes, and writes what both loaders read."""

import json

import pytest
import torch
from rapiddraw.core.bundles.format import Schedule, read_info
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import Cancelled, InputError
from rapiddraw.core.host import current
from rapiddraw.core.lowrank.factorize import factored_names
from rapiddraw.core.lowrank.layers import has_factors
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.progress import set_reporter
from rapiddraw.core.train import make_recipe
from rapiddraw.tests.core.train.toy import StopAfter, train_beside
from rapiddraw.tests.helpers import write_unet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset("train", 6, 64, tmp_path_factory.mktemp("data") / "set")


def distill_recipe(folder, tiny_weights, **changes):
    bundles = {"teacher": "unet", "vae": "vae", "text": "text", "graph": "kg"}
    paths = {key: str(tiny_weights / f"tiny-{name}.safetensors") for key, name in bundles.items()}
    small = {"size": 64, "batch_size": 2, "warmup": 0, "precision": "no", "value": 0.7}
    return make_recipe("distill", {"data": str(folder), **paths, **small, **changes})


def test_the_student_comes_nearer_to_its_teacher_and_is_a_low_rank_unet(folder, tiny_weights, tmp_path):
    recipe = distill_recipe(folder, tiny_weights, features=0.1, lr=1e-3)
    result = train_beside(recipe, tmp_path / "student.safetensors", 12)
    lines = [json.loads(line) for line in result.log.read_text(encoding="utf-8").splitlines()]
    assert lines[-1]["noise"] < 0.7 * lines[0]["noise"] and lines[-1]["features"] < lines[0]["features"]
    info, teacher = read_info(result.files[0], "unet"), read_info(tiny_weights / "tiny-unet.safetensors")
    assert (info.latent, info.schedule, info.config) == (teacher.latent, teacher.schedule, teacher.config)
    assert info.provenance["teacher"] == teacher.provenance and info.provenance["settings"]["value"] == 0.7
    sizes = info.provenance["parameters"]
    assert 0.6 < sizes["student"] / sizes["teacher"] <= 0.7
    assert has_factors(current().speed.network_of("model", current().model.load(result.files[0])))


def test_a_stopped_run_goes_on_to_the_same_weights(folder, tiny_weights, tmp_path):
    whole = train_beside(distill_recipe(folder, tiny_weights), tmp_path / "whole.safetensors", 4)

    out = tmp_path / "halves.safetensors"
    train_beside(
        distill_recipe(folder, tiny_weights), tmp_path / "first.safetensors", 1
    )  # the latents are kept now, so that bars are of steps
    set_reporter(lambda _, label, __: StopAfter(2 if label.startswith("train") else 10**9, Cancelled("enough")))
    try:
        with pytest.raises(Cancelled):
            train_beside(distill_recipe(folder, tiny_weights), out, 4)
    finally:
        set_reporter(None)
    assert not out.exists()
    train_beside(distill_recipe(folder, tiny_weights), out, 4)
    a, b = load_bundle(whole.files[0]).tensors, load_bundle(out).tensors
    assert factored_names(a) and all(torch.equal(a[key], b[key]) for key in a)


def test_what_the_teacher_predicts_is_carried_over(folder, tiny_weights, tmp_path):
    schedule = Schedule("eps", beta_schedule="linear", beta_start=0.001, t_max=600)
    teacher = write_unet(tmp_path / "eps.safetensors", seed=3, schedule=schedule)
    recipe = distill_recipe(folder, tiny_weights, teacher=str(teacher), weighting="min_snr")
    result = train_beside(recipe, tmp_path / "student.safetensors", 1)
    assert read_info(result.files[0]).schedule == schedule and recipe.source.noise_levels.schedule == schedule
    assert recipe.distiller.prediction == "eps"


def test_random_factors_are_none_of_the_teachers(folder, tiny_weights):
    recipe = distill_recipe(folder, tiny_weights, init="random", noise=0.0, task=1.0)
    recipe.check()
    recipe.setup(torch.device("cpu"))
    teacher = load_bundle(tiny_weights / "tiny-unet.safetensors").tensors["conv_in.weight"]
    assert has_factors(recipe.unet) and not torch.equal(recipe.unet.conv_in.weight, teacher)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": ""}, "teacher is empty"),
        ({"init": "zeros"}, "svd or random"),
        ({"noise": 0.0}, "nothing to learn"),
        ({"caption_dropout": 1.5}, "caption_dropout"),
        ({"vae": ""}, "vae is empty"),
        ({"timesteps": "late"}, "logit_normal"),
    ],
)
def test_what_cannot_be_trained_is_refused(folder, tiny_weights, changes, words):
    with pytest.raises(InputError, match=words):
        distill_recipe(folder, tiny_weights, **changes).check()
