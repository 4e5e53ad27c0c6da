"""Identities of the losses of few-step students."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.diffusion.flow import FlowSchedule
from rapiddraw.core.diffusion.noise import FLOW, VE
from rapiddraw.core.diffusion.schedule import NoiseSchedule, Schedule
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.fewstep.adversarial import Features, Heads, discriminator_loss, generator_loss
from rapiddraw.core.fewstep.cfg_aware import cfg_aware_loss, draw_scale
from rapiddraw.core.fewstep.consistency import consistency_loss, consistent, scalings, skipping_grid
from rapiddraw.core.fewstep.guidance_embedded import ScaleEmbedding, draw_scales, guidance_embedded_loss
from rapiddraw.core.fewstep.progressive import progressive_loss, target
from rapiddraw.core.fewstep.segment import Segment, guided, implied, subdivide
from rapiddraw.core.fewstep.trajectory import teacher_run, trajectory_loss
from rapiddraw.core.lowrank.distill import feature_layers

VE_TABLE, FLOW_TABLE = NoiseSchedule().sigmas, FlowSchedule(Schedule(prediction="flow")).sigmas
CASES = [pytest.param(VE, VE_TABLE, id="ve"), pytest.param(FLOW, FLOW_TABLE, id="flow")]


def curved(x, sigma, given=1.0):
    return given * x.tanh() / (1 + sigma.reshape(-1, 1, 1, 1))


def one_picture(x, sigma, given=1.0):
    """The exact denoiser of data that is one picture: its paths are straight, and one step is as good as many."""
    return torch.full_like(x, 0.3 * given)


def segment_of(table, parts, x=None):
    """A segment from two levels of four steps, and the teacher's levels inside it."""
    levels = subdivide(torch.cat([table[[999, 749, 499, 249]], torch.zeros(1)]), table, parts)
    chosen = torch.tensor([1, 3])
    inside = torch.stack([levels[i * parts : (i + 1) * parts + 1] for i in chosen])
    state = torch.randn(2, 4, 3, 3) if x is None else x
    return Segment(state, inside[:, 0], inside[:, -1], 1.0, 0.5), inside


@pytest.mark.parametrize(("convention", "table"), CASES)
class TestInBothConventions:
    def test_a_student_that_is_its_teacher_has_no_progressive_loss(self, convention, table):
        segment, inside = segment_of(table, 1)
        assert float(progressive_loss(curved, curved, segment, inside, convention)) < 1e-8
        segment, inside = segment_of(table, 2)
        assert float(progressive_loss(one_picture, one_picture, segment, inside, convention)) < 1e-8
        assert float(progressive_loss(curved, curved, segment, inside, convention)) > 1e-5  # where paths are curved there is much to learn

    def test_the_guided_teacher_is_met_by_its_guided_prediction(self, convention, table):
        segment, inside = segment_of(table, 1)
        wanted = target(curved, segment, inside, 4.0)
        torch.testing.assert_close(wanted, guided(curved, segment.x, segment.start, segment, 4.0), rtol=1e-4, atol=1e-5)
        assert float(progressive_loss(lambda *_: wanted, curved, segment, inside, convention, 4.0)) == 0

    def test_a_guided_student_that_is_its_teacher_has_no_loss_at_any_scale(self, convention, table):
        segment, inside = segment_of(table, 1)
        for scale in (1.0, 2.0, 14.0):
            assert float(cfg_aware_loss(curved, curved, segment, inside, convention, scale)) < 1e-6

    def test_the_vanilla_loss_is_the_progressive_one(self, convention, table):
        segment, inside = segment_of(table, 2)
        vanilla = cfg_aware_loss(curved, curved, segment, inside, convention, 1.0)
        assert float(vanilla) == float(progressive_loss(curved, curved, segment, inside, convention))

    def test_each_picture_has_a_scale_of_its_own(self, convention, table):
        segment, inside = segment_of(table, 2)
        wanted = target(curved, segment, inside, torch.tensor([3.0, 7.0]))
        for i, scale in enumerate((3.0, 7.0)):
            torch.testing.assert_close(wanted[i], target(curved, segment, inside, scale)[i])
        assert float(guidance_embedded_loss(lambda *_: wanted, curved, segment, inside, convention, torch.tensor([3.0, 7.0]))) == 0

    def test_a_run_of_the_teacher_holds_the_ends_of_its_segments(self, convention, table):
        levels = subdivide(torch.cat([table[[999, 499]], torch.zeros(1)]), table, 8)
        noise, seen = torch.randn(2, 4, 3, 3) * float(levels[0]), []
        states = teacher_run(curved, Segment(noise, levels[:1], levels[-1:], 1.0, 0.5), levels, 8, 3.0, lambda: seen.append(1))
        assert states.shape == (2, 3, 4, 3, 3) and torch.equal(states[:, 0], noise) and len(seen) == 16
        start, end = levels[8].expand(2), levels[16].expand(2)
        segment = Segment(states[:, 1], start, end, 1.0, 0.5)
        wanted = implied(states[:, 1], start, end, states[:, 2])
        assert float(trajectory_loss(lambda *_: wanted, segment, states[:, 2], convention)) < 1e-10
        torch.testing.assert_close(wanted, target(curved, segment, levels[8:].expand(2, -1), 3.0), rtol=1e-4, atol=1e-4)

    def test_a_consistent_student_is_the_identity_at_the_lowest_level(self, convention, table):
        x, lowest = torch.randn(2, 4, 3, 3), table[:1].expand(2)
        assert torch.equal(consistent(torch.randn_like(x), x, lowest, table), x)

    def test_the_exact_student_of_one_picture_is_consistent(self, convention, table):
        upper, lower = skipping_grid(table)
        x = torch.randn(2, 4, 3, 3)
        segment = Segment(x, upper[[10, 40]], lower[[10, 40]], 1.0, 1.0)
        assert float(consistency_loss(one_picture, one_picture, one_picture, segment, table, 3.0)) < 1e-6
        assert float(consistency_loss(curved, curved, curved, segment, table, 3.0)) > 1e-4


def test_the_scalings_are_those_of_lcm():
    skip, out = scalings(torch.tensor([0.0, 19.0, 999.0]))
    assert skip[0] == 1 and out[0] == 0
    torch.testing.assert_close(skip[1:], torch.tensor([0.25 / (190**2 + 0.25), 0.25 / (9990**2 + 0.25)]))
    torch.testing.assert_close(out[1:], torch.tensor([190 / (190**2 + 0.25) ** 0.5, 1.0]))


def test_the_grid_skips_to_the_lowest_level():
    upper, lower = skipping_grid(VE_TABLE)
    assert torch.equal(upper, VE_TABLE[19::20]) and torch.equal(lower[1:], upper[:-1]) and lower[0] == VE_TABLE[0]
    with pytest.raises(InputError, match="grid of 50"):
        skipping_grid(VE_TABLE[:10])


def test_scales_come_from_their_range():
    torch.manual_seed(0)
    drawn = [draw_scale(2.0, 14.0, 0.25) for _ in range(400)]
    asked = [scale for scale in drawn if scale != 1.0]
    assert 60 < len(asked) < 140 and min(asked) >= 2 and max(asked) <= 14
    assert {draw_scale(2.0, 14.0, 0.0) for _ in range(9)} == {1.0}
    many = draw_scales(2.0, 14.0, 500)
    assert float(many.min()) >= 2 and float(many.max()) <= 14 and float(many.std()) > 2


def test_an_untrained_embedding_changes_nothing_and_a_trained_one_tells_scales_apart():
    embedding = ScaleEmbedding(6)
    assert torch.equal(embedding(torch.tensor([1.0, 7.5])), torch.zeros(2, 1, 6))
    torch.nn.init.normal_(embedding.out.weight)
    told = embedding(torch.tensor([1.0, 1.25, 12.0])).detach()
    assert float((told[0] - told[1]).abs().max()) > 1e-3 and float((told[0] - told[2]).abs().max()) > 1e-2
    again = ScaleEmbedding.of(dict(embedding.state_dict()), "file")
    assert torch.equal(again(torch.tensor([3.0])), embedding(torch.tensor([3.0]))) and not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize("tensors", [{}, {"out.weight": torch.zeros(3)}, {"out.weight": torch.zeros(6, 128)}])
def test_a_damaged_embedding_is_refused(tensors):
    with pytest.raises(BundleError, match="student.safetensors"):
        ScaleEmbedding.of(tensors, "student.safetensors")


@pytest.fixture
def unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=8,
    ).requires_grad_(False)  # fmt: skip


def test_the_discriminator_starts_undecided_and_sends_gradients_to_the_picture(unet):
    def denoise(x, sigma, text):
        return unet(x, sigma, encoder_hidden_states=text, return_dict=False)[0]

    features, text, sigma = Features(denoise, unet), torch.randn(2, 3, 16), torch.tensor([1.0, 2.0])
    assert features.layers == feature_layers(unet)[:2]
    made = torch.randn(2, 4, 8, 8, requires_grad=True)
    heads = Heads([one.shape[1] for one in features(made, sigma, text)])

    def scores(x):
        return heads(features(x, sigma, text))

    assert torch.equal(scores(made), torch.zeros(2, 8 * 8 // 4 + 4 * 4))
    x0 = torch.randn(2, 4, 8, 8)
    parts = generator_loss(scores, x0, made, lambda x: x + 0.1, 0.5, torch.ones(2))
    torch.testing.assert_close(parts["loss"], parts["generator"] + 0.5 * parts["reconstruction"])
    torch.testing.assert_close(parts["generator"], torch.tensor(2.0).log())
    optimizer = torch.optim.Adam(heads.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss = discriminator_loss(scores, x0, made, lambda x: x)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1.2  # 2 log 2 = 1.39 where it knows nothing
    with torch.no_grad():
        assert float(scores(x0).mean()) > float(scores(made).mean())
    generator_loss(scores, x0, made, lambda x: x, 0.0, torch.ones(2))["loss"].backward()
    assert made.grad is not None and float(made.grad.abs().max()) > 0
