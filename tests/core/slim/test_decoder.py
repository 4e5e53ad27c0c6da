"""Pruning of a VAE's decoder: nothing at a share of 1, whole channels of every group, and dead channels first."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.slim.decoder import KEY, open_decoder, prune_decoder, pruned_widths, read_widths, widths_of
from rapiddraw.tests.helpers import VAE_CONFIG, seeded

CONFIG: dict[str, Any] = {**VAE_CONFIG, "block_out_channels": [64, 64, 128], "layers_per_block": 1, "mid_block_add_attention": True}
CONFIG |= {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
Z = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def network(**more: Any) -> Any:
    from diffusers import AutoencoderKL

    return seeded(lambda: AutoencoderKL(**(CONFIG | more))).eval()


def decoded(vae: Any) -> torch.Tensor:
    with torch.no_grad():
        return vae.decode(Z).sample


def test_pruning_nothing_is_the_original() -> None:
    vae = network()
    before = decoded(vae)
    assert prune_decoder(vae, 1.0) == [64, 64, 128] and torch.equal(decoded(vae), before)


@pytest.mark.parametrize("attention", [True, False])
def test_half_of_the_channels_are_left_and_the_encoder_is_untouched(attention: bool) -> None:
    vae = network(mid_block_add_attention=attention)
    encoder = {name: weight.clone() for name, weight in vae.encoder.state_dict().items()}
    size = sum(p.numel() for p in vae.decoder.parameters())
    assert prune_decoder(vae, 0.5) == [32, 32, 64] == widths_of(vae)
    assert 0.2 < sum(p.numel() for p in vae.decoder.parameters()) / size < 0.3
    assert decoded(vae).shape == (2, 3, 24, 24) and torch.isfinite(decoded(vae)).all()
    assert all(torch.equal(weight, encoder[name]) for name, weight in vae.encoder.state_dict().items())


def test_channels_that_give_nothing_go_first() -> None:
    """In each group of four channels two are dead throughout, so that those two go, and the network without them is left."""
    from diffusers import AutoencoderKL

    config = {**CONFIG, "block_out_channels": [128, 128, 128], "mid_block_add_attention": False}
    small: Any = network(block_out_channels=[64, 64, 64], mid_block_add_attention=False)
    large: Any = seeded(lambda: AutoencoderKL(**config)).eval()
    alive = (torch.arange(128) % 4 == 1) | (torch.arange(128) % 4 == 2)
    with torch.no_grad():
        tensors = small.decoder.state_dict()
        for name, weight in large.decoder.state_dict().items():
            source, place = tensors[name], weight.zero_()
            rows = alive if source.shape[0] == 64 else torch.ones(source.shape[0], dtype=torch.bool)
            if source.dim() == 1:
                place[rows] = source
            else:
                columns = alive if source.shape[1] == 64 else torch.ones(source.shape[1], dtype=torch.bool)
                part = place[rows]
                part[:, columns] = source
                place[rows] = part
    large.post_quant_conv.load_state_dict(small.post_quant_conv.state_dict())
    prune_decoder(large, 0.5)
    torch.testing.assert_close(decoded(large), decoded(small))


def test_a_recorded_decoder_is_opened_again() -> None:
    vae = network()
    widths = prune_decoder(copy.deepcopy(vae), 0.5)
    assert read_widths({KEY: widths}, CONFIG, "it") == widths and read_widths({}, CONFIG, "it") is None
    pruned = copy.deepcopy(vae)
    prune_decoder(pruned, 0.5)
    open_decoder(vae, widths)
    vae.decoder.load_state_dict(pruned.decoder.state_dict())
    assert torch.equal(decoded(vae.eval()), decoded(pruned))


def test_bad_shares_and_records() -> None:
    for share in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="share="):
            prune_decoder(network(), share)
    assert pruned_widths([32, 64, 64, 96], 0.01, 32) == [32, 64, 64, 96] and pruned_widths([128, 256, 512], 0.5, 32) == [64, 128, 256]
    for stored in ("64", [64, 64], [64, 64, 256], [0, 32, 32], [31, 32, 32], [32.0, 32, 32]):
        with pytest.raises(BundleError, match="it: its record of the decoder's widths"):
            read_widths({KEY: stored}, CONFIG, "it")
