"""Control in the embedded host: nothing without strength or training, the range, chains, batches, every sampler and guider."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.control.adapter import copy_of_unet
from rapiddraw.core.control.apply import apply_adapter, attach_control
from rapiddraw.core.control.bundle import save_control
from rapiddraw.core.errors import InputError
from rapiddraw.core.host import Host, Stage
from rapiddraw.core.host.embedded.guider import calc_cond_batch, prepare_conds
from rapiddraw.core.host.embedded.latent import RandomNoise
from rapiddraw.core.host.embedded.sampling import named_sampler
from rapiddraw.core.networks import network_of
from rapiddraw.tests.helpers import write_unet

LATENT = {"samples": torch.zeros(2, 4, 8, 8)}
SIGMAS = torch.tensor([5.0, 1.0, 0.3, 0.0])


@pytest.fixture(scope="module")
def host():
    return Host("embedded")


@pytest.fixture(scope="module")
def model(host, tiny_weights):
    return host.model.load(tiny_weights / "tiny-unet.safetensors")


@pytest.fixture(scope="module")
def net(host, tiny_weights):
    return host.control.load(tiny_weights / "tiny-control.safetensors", "edges")


def conds():
    generator = torch.Generator().manual_seed(8)
    return tuple([[torch.randn(1, 7, 32, generator=generator), {}]] for _ in range(2))


def picture(batch=1, seed=3):
    return torch.rand(batch, 64, 64, 3, generator=torch.Generator().manual_seed(seed))


def drawn(host, model, positive, negative, sampler="euler", latent=LATENT):
    return host.sampling.sample_custom(
        host.sampling.make_guider(model, positive, negative, 3.0), named_sampler(sampler), SIGMAS, latent, 5
    )["samples"]


def test_an_untrained_adapter_and_strength_0_leave_every_bit_as_it_is(host, model, tiny_weights, tmp_path):
    base = load_bundle(tiny_weights / "tiny-unet.safetensors")
    adapter, config = copy_of_unet(network_of(UNet2DConditionModel, base), 8)
    untrained = host.control.load(save_control(tmp_path / "new.safetensors", adapter, config, base.info, {}), "sketch")
    plain = drawn(host, model, *conds())
    assert torch.equal(plain, drawn(host, model, *apply_adapter(*conds(), untrained, {"edges": picture()}, 1.0, 0.0, 1.0)))
    given = conds()
    same = apply_adapter(*given, untrained, {"edges": picture()}, 0.0, 0.0, 1.0)
    assert same[0] is given[0] and same[1] is given[1]


def test_control_changes_the_picture_within_its_range_only(host, model, net):
    plain = drawn(host, model, *conds())
    controlled = drawn(host, model, *apply_adapter(*conds(), net, {"edges": picture()}, 1.0, 0.0, 1.0))
    assert not torch.allclose(plain, controlled, atol=1e-3)
    percent = next(p / 1000 for p in range(1001) if model.model.model_sampling.percent_to_sigma(p / 1000) < 0.3)
    late = drawn(host, model, *apply_adapter(*conds(), net, {"edges": picture()}, 1.0, percent, 1.0))
    assert torch.equal(plain, late)  # no level of this walk lies that low
    assert net.cond_hint_original is None and net.strength == 1.0  # what was given is not changed
    positive, negative = conds()
    (only,) = attach_control((positive,), net, picture().movedim(-1, 1), 1.0, 0.0, 1.0)
    assert not torch.allclose(drawn(host, model, only, negative), controlled, atol=1e-4)


def test_chains_add_up_and_one_picture_goes_to_the_default_condition(host, model, net):
    whole = drawn(host, model, *apply_adapter(*conds(), net, {"edges": picture()}, 1.0, 0.0, 1.0))
    hint = picture().movedim(-1, 1)
    first = attach_control(conds(), net, hint, 0.5, 0.0, 1.0)
    both = attach_control(first, net, hint, 0.5, 0.0, 1.0)
    assert both[0][0][1]["control"] is both[1][0][1]["control"]  # so that both prompts are evaluated together
    assert both[0][0][1]["control"].previous_controlnet is first[0][0][1]["control"]
    assert torch.allclose(whole, drawn(host, model, *both), atol=1e-4)


def test_a_batch_of_conditions_is_one_for_each_picture(host, model, net):
    base, sigma = model.model, torch.tensor([2.0, 2.0])
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    pictures = picture(2)

    def denoised(images, rows):
        positive, negative = apply_adapter(*conds(), net, {"segmentation": images}, 1.0, 0.0, 1.0)
        entries = [prepare_conds(base, positive), prepare_conds(base, negative)]
        return calc_cond_batch(base, entries, x[rows], sigma[rows], {})

    together = denoised(pictures, slice(0, 2))
    for row in range(2):
        alone = denoised(pictures[row : row + 1], slice(row, row + 1))
        for one, other in zip(together, alone, strict=True):
            assert torch.allclose(one[row : row + 1], other, atol=1e-4)
    control = apply_adapter(*conds(), net, {"segmentation": pictures}, 1.0, 0.0, 1.0)[0][0][1]["control"]
    assert torch.equal(control.of_rows(torch.tensor([1])).cond_hint_original, control.cond_hint_original[1:])


def test_every_sampler_and_guider_of_ours_carries_it(host, model, net, tiny_weights):
    from rapiddraw.core.bridge.joint import LatentBridgeGuider
    from rapiddraw.core.bridge.latent import Fusion
    from rapiddraw.core.bridge.side import Side

    positive, negative = apply_adapter(*conds(), net, {"sketch": picture()}, 1.0, 0.0, 1.0)
    for name in host.sampling.sampler_names():
        plain, controlled = (drawn(host, model, *given, sampler=name) for given in (conds(), (positive, negative)))
        assert controlled.isfinite().all() and not torch.allclose(plain, controlled, atol=1e-4), name
    texture = host.model.load(tiny_weights / "tiny-unet.safetensors")
    guider = host.time_decoupled.make_guider([Stage(model, positive, negative, 2.0, 500), Stage(texture, None, None, 2.0)])
    noise = RandomNoise(4).generate_noise(LATENT)
    sampler = host.sampling.named_sampler("euler")
    assert guider.sample(noise, LATENT["samples"], sampler, SIGMAS, seed=4).isfinite().all()
    composite = host.time_decoupled.join(model, model, 500)
    assert torch.allclose(drawn(host, composite, positive, negative), drawn(host, model, positive, negative), atol=1e-5)
    vae = host.load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))[2]
    sides = [Side(model, vae, *given, 2.0) for given in ((positive, negative), conds())]
    joint = LatentBridgeGuider(*sides, Fusion(strength=0.0))
    alone = host.sampling.make_guider(model, positive, negative, 2.0)
    found = joint.sample(noise, LATENT["samples"], sampler, SIGMAS, seed=4)
    assert torch.allclose(found, alone.sample(noise, LATENT["samples"], sampler, SIGMAS, seed=4), atol=1e-5)


def test_what_does_not_fit_is_refused(host, model, net, tiny_weights, tmp_path):
    other = host.model.load(write_unet(tmp_path / "wide.safetensors", block_out_channels=[32, 96]))
    positive, negative = apply_adapter(*conds(), net, {"edges": picture()}, 1.0, 0.0, 1.0)
    with pytest.raises(InputError, match=r"tiny-control.*another U-Net.*block_out_channels"):
        drawn(host, other, positive, negative)
    with pytest.raises(InputError, match="cannot run"):
        prepare_conds(model.model, [[conds()[0][0][0], {"control": object()}]])
    with pytest.raises(InputError, match="conditions are edges, segmentation, sketch"):
        host.control.load(tiny_weights / "tiny-control.safetensors", "depth")
    for numbers, words in (((11.0, 0.0, 1.0), "strength"), ((float("nan"), 0.0, 1.0), "strength"), ((1.0, -0.1, 1.0), "start")):
        with pytest.raises(InputError, match=words):
            apply_adapter(*conds(), net, {"edges": picture()}, *numbers)
    with pytest.raises(InputError, match="no adapter of RapidDraw"):
        apply_adapter(*conds(), object(), {"edges": picture()}, 1.0, 0.0, 1.0)
