"""What a student learns: nothing from a teacher that it equals, and otherwise exactly the terms that were asked for."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from rapiddraw.core.bundles.format import Schedule
from rapiddraw.core.diffusion.schedule import PREDICTIONS, NoiseSchedule
from rapiddraw.core.diffusion.weighting import loss_weight, output_slope
from rapiddraw.core.errors import InputError
from rapiddraw.core.lowrank.distill import Distiller, Terms, feature_layers, recorded
from rapiddraw.core.lowrank.factorize import factorize
from rapiddraw.tests.helpers import UNET_CONFIG, WIDTH, seeded

ALL = Terms(noise=1.0, features=0.5, task=0.25)


@pytest.fixture(scope="module")
def teacher():
    return seeded(lambda: UNet2DConditionModel(**UNET_CONFIG)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def student(teacher):
    network = copy.deepcopy(teacher)
    factorize(network, "param_ratio", 0.7)
    return network.requires_grad_(True)


def asked(prediction="v"):
    levels, generator = NoiseSchedule(Schedule(prediction)), torch.Generator().manual_seed(1)
    latents, t = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([100, 700])
    sigma = levels.sigma(t)
    x = latents + sigma.reshape(-1, 1, 1, 1) * torch.randn(latents.shape, generator=generator)
    return levels, x, sigma, t, torch.randn(2, 5, WIDTH, generator=generator), latents


def raw(network, levels, x, sigma, t, tokens):
    return network(levels.calculate_input(sigma, x), t, encoder_hidden_states=tokens, return_dict=False)[0]


def distiller(teacher, student, terms, prediction="v"):
    levels, _, _, t, tokens, _ = asked(prediction)

    def denoise(network):
        return lambda x, sigma, _: levels.calculate_denoised(sigma, raw(network, levels, x, sigma, t, tokens), x)

    return Distiller(denoise(teacher), denoise(student), (teacher, student), prediction, terms)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn(teacher):
    _, x, sigma, _, _, latents = asked()
    parts = distiller(teacher, copy.deepcopy(teacher), ALL).loss(x, sigma, None, latents)
    assert float(parts["noise"]) == 0 and float(parts["features"]) == 0 and float(parts["loss"]) == 0.25 * float(parts["task"])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", ["none", "min_snr"])
def test_the_noise_loss_is_the_weighted_error_of_the_raw_outputs(teacher, student, prediction, weighting):
    levels, x, sigma, t, tokens, latents = asked(prediction)
    found = distiller(teacher, student, Terms(weighting=weighting), prediction).loss(x, sigma, None, latents)
    with torch.no_grad():
        error = (raw(teacher, levels, x, sigma, t, tokens) - raw(student, levels, x, sigma, t, tokens)).square().flatten(1).mean(1)
    expected = (loss_weight(weighting, prediction, sigma) * error).mean()
    assert set(found) == {"loss", "noise"} and torch.allclose(found["loss"], expected, rtol=1e-3)


def test_every_term_counts_as_often_as_it_is_told_to_and_only_the_student_learns(teacher, student):
    _, x, sigma, _, _, latents = asked()
    parts = distiller(teacher, student, ALL).loss(x, sigma, None, latents)
    assert torch.allclose(parts["loss"], parts["noise"] + 0.5 * parts["features"] + 0.25 * parts["task"])
    parts["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters()) and all(p.grad is not None for p in student.parameters())
    student.zero_grad(set_to_none=True)
    alone = distiller(lambda *_: pytest.fail("it is not needed"), student, Terms(noise=0, task=1))
    assert set(alone.loss(x, sigma, None, latents)) == {"loss", "task"}


def test_feature_errors_are_measured_in_the_teachers_own_spread(teacher, student):
    """So a map of great values does not rule the sum."""
    _, x, sigma, _, _, latents = asked()
    before = distiller(teacher, student, Terms(noise=0, features=1)).loss(x, sigma, None, latents)["loss"]
    assert 0 < before.item() < 2
    with recorded(feature_layers(teacher)) as maps, torch.no_grad():
        levels, x, sigma, t, tokens, _ = asked()
        raw(teacher, levels, x, sigma, t, tokens)
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 4, 4), (64, 4, 4), (64, 8, 8), (32, 8, 8)]
    assert not teacher.down_blocks[0]._forward_hooks, "nothing listens any more"


def test_the_same_places_are_found_in_a_network_of_comfyuis_kind():
    class Downsample(torch.nn.Identity):
        pass

    class Upsample(torch.nn.Identity):
        pass

    def block(*layers):
        return torch.nn.Sequential(*layers)

    network = torch.nn.Module()
    down, last, up, end = Downsample(), torch.nn.Identity(), Upsample(), torch.nn.Identity()
    network.input_blocks = torch.nn.ModuleList([block(torch.nn.Identity()), block(down), block(torch.nn.Identity(), last)])
    network.output_blocks = torch.nn.ModuleList([block(torch.nn.Identity(), up), block(torch.nn.Identity(), end)])
    assert feature_layers(network) == [down, last, up, end]
    with pytest.raises(InputError, match="no U-Net with levels"):
        feature_layers(torch.nn.Identity())


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms(noise=0), "nothing to learn"),
        (Terms(noise=float("nan")), "noise=nan"),
        (Terms(features=-1), "features=-1"),
        (Terms(task=1e9), "task="),
        (Terms(weighting="snr"), "min_snr"),
    ],
)
def test_terms_that_cannot_be_are_refused(terms, words):
    with pytest.raises(InputError, match=words):
        terms.check()


def test_the_slope_is_the_derivative_of_the_output():
    from rapiddraw.core.diffusion.schedule import denoised_to_output

    sigma, x = torch.tensor([0.3, 4.0]), torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for prediction in PREDICTIONS:
        moved = denoised_to_output(prediction, sigma, x + 1, x) - denoised_to_output(prediction, sigma, x, x)
        assert torch.allclose(moved.abs()[:, 0], output_slope(prediction, sigma), rtol=1e-5)


def test_the_task_loss_of_a_flow_model_is_the_error_against_noise_minus_picture():
    generator = torch.Generator().manual_seed(2)
    latents, noise, output = (torch.randn(3, 16, 1, 4, 4, generator=generator) for _ in range(3))
    sigma = torch.tensor([0.1, 0.5, 1.0])
    level = sigma.reshape(-1, 1, 1, 1, 1)
    x = (1 - level) * latents + level * noise
    network = torch.nn.Identity()
    student = Distiller(lambda *_: latents, lambda x, *_: x - level * output, (network, network), "flow", Terms(noise=0.0, task=1.0))
    wanted = (noise - latents - output).square().mean()
    torch.testing.assert_close(student.loss(x, sigma, None, latents)["task"], wanted, rtol=1e-4, atol=1e-5)
