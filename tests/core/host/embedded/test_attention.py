"""Attention patches in the embedded host: the network is shared and stays as it is, the picture stays the same."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from rapiddraw.core.attention.backends import BACKENDS, Backend
from rapiddraw.core.attention.chain import OVERRIDE, patches_of
from rapiddraw.core.attention.patch import AttentionPatch
from rapiddraw.core.host import Host, SamplingRun
from rapiddraw.core.host.embedded.attention import HostAttnProcessor, open_attention
from rapiddraw.tests.helpers import UNET_CONFIG, seeded


@pytest.fixture(scope="module")
def host():
    return Host("embedded")


@pytest.fixture(scope="module")
def parts(host, tiny_weights):
    return host.load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))


def drawn(host, parts, model):
    positive, negative = host.clip.encode(parts[1], "a round red fruit"), host.clip.encode(parts[1], "")
    latent = {"samples": torch.zeros(1, 4, 8, 8), "downscale_ratio_spacial": 8}
    return host.sampling.sample(host.sampling.make_guider(model, positive, negative, 3.0), latent, SamplingRun(1, 2, "euler", "simple"))[
        "samples"
    ]


def test_our_processor_is_diffusers_own_where_nothing_is_patched():
    from diffusers import UNet2DConditionModel

    network = seeded(lambda: UNet2DConditionModel(**UNET_CONFIG)).eval()
    generator = torch.Generator().manual_seed(0)
    x, tokens = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 9, 32, generator=generator)
    mask = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    with torch.no_grad():
        theirs = network(x, 500, tokens, encoder_attention_mask=mask).sample
        opened = open_attention(network)
        assert torch.equal(opened(x, 500, tokens, encoder_attention_mask=mask).sample, theirs)
        options = {"transformer_options": {OVERRIDE: AttentionPatch("tiled").attend}}
        for _ in range(2):
            patched = opened(x, 500, tokens, encoder_attention_mask=mask, cross_attention_kwargs=options).sample
            torch.testing.assert_close(patched, theirs, rtol=1e-4, atol=1e-5)


def test_processors_of_another_kind_are_left_alone():
    from diffusers import UNet2DConditionModel

    class Relu(AttnProcessor2_0):
        pass

    network = seeded(lambda: UNet2DConditionModel(**UNET_CONFIG))
    own = Relu()
    network.down_blocks[0].attentions[0].transformer_blocks[0].attn1.set_processor(own)
    kinds = [type(one) for one in open_attention(network).attn_processors.values()]
    assert kinds.count(Relu) == 1 and kinds.count(HostAttnProcessor) == len(kinds) - 1


@pytest.mark.parametrize("backend", ["auto", "tiled", "sdpa_math", "sdpa_flash", "default"])
def test_the_picture_is_the_same_and_the_source_unchanged(host, parts, backend):
    plain = drawn(host, parts, parts[0])
    patch = AttentionPatch(backend)
    model, vae = host.attention.patch_model(parts[0], patch), host.attention.patch_vae(parts[2], patch)
    assert vae is parts[2] and model is not parts[0] and patches_of(parts[0]) == ()
    torch.testing.assert_close(drawn(host, parts, model), plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(drawn(host, parts, parts[0]), plain)
    calls = sum(row.calls for row in patch.rows.values())
    assert calls == 2 * 2 * len(parts[0].model.diffusion_model.attn_processors) / 2  # two steps, cond and uncond in one batch


def test_a_kernel_that_turns_bad_does_not_reach_the_picture(host, parts, caplog):
    bad = []

    def run(q, k, v, mask):
        return BACKENDS["tiled"].run(q, k, v, mask) * (torch.nan if bad else 1)

    patch = AttentionPatch("flaky", backends={"flaky": Backend("flaky", run, lambda call: True)})
    model = host.attention.patch_model(parts[0], patch)
    plain = drawn(host, parts, parts[0])
    torch.testing.assert_close(drawn(host, parts, model), plain, rtol=1e-4, atol=1e-4)
    bad.append(True)
    torch.testing.assert_close(drawn(host, parts, model), plain, rtol=1e-4, atol=1e-4)
    assert list(patch.off) == ["flaky"] and len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


def test_a_function_wrapper_that_is_there_already_still_runs(host, parts):
    seen = []

    def wrapper(apply_model, call):
        seen.append(call["cond_or_uncond"])
        return apply_model(call["input"], call["timestep"], **call["c"])

    wrapped = parts[0].clone()
    wrapped.set_model_unet_function_wrapper(wrapper)
    model = host.attention.patch_model(wrapped, AttentionPatch())
    drawn(host, parts, model)
    assert len(seen) == 2
