"""LoRA files on the embedded host's MODEL: what was trained is what the file gives."""

from __future__ import annotations

import logging

import pytest
import torch
from rapiddraw.core.errors import BundleError
from rapiddraw.core.host import current
from rapiddraw.core.lowrank.lora import attach_lora
from rapiddraw.core.lowrank.lora_file import read_lora, save_lora


def denoised(model):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return model.model.apply_model(x, torch.tensor([2.0]), torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(2)))


@pytest.fixture
def model(tiny_weights):
    return current().model.load(tiny_weights / "tiny-unet.safetensors")


@pytest.fixture
def trained(model, tmp_path):
    """(what the network with trained pairs gives, the file of those pairs)."""
    lora = attach_lora(model.model.diffusion_model, rank=2, alpha=3.0)
    for i, pair in enumerate(lora.pairs):
        pair.up.data.normal_(std=0.2, generator=torch.Generator().manual_seed(i))
    wanted = denoised(model)
    lora.detach()
    keyed = {current().surgery.lora_key(model, name): one for name, one in lora.factors().items()}
    return wanted, save_lora(tmp_path / "trained.safetensors", keyed, {})


def test_a_file_gives_the_trained_network_and_strength_0_the_base(model, trained):
    wanted, path = trained
    before, surgery = denoised(model), current().surgery
    loaded, _ = surgery.add_lora(model, None, path, 1.0, 1.0)
    assert float((denoised(loaded) - wanted).abs().max()) < 1e-2 * float((wanted - before).abs().max())
    assert torch.equal(denoised(surgery.add_lora(model, None, path, 0.0, 1.0)[0]), before) and torch.equal(denoised(model), before)


def test_the_names_of_other_trainers_are_read(model, trained, tmp_path):
    wanted, path = trained
    keyed = {f"lora_unet_{key.removeprefix('diffusion_model.').replace('.', '_')}": one for key, one in read_lora(path).items()}
    assert len(keyed) == len(read_lora(path))
    loaded, _ = current().surgery.add_lora(model, None, save_lora(tmp_path / "other.safetensors", keyed, {}), 1.0, 0.0)
    assert torch.allclose(denoised(loaded), wanted, atol=1e-2)


def test_a_lora_of_another_model_is_refused_and_layers_that_fit_nothing_are_counted(model, trained, tmp_path, caplog):
    factors, surgery = read_lora(trained[1]), current().surgery
    foreign = save_lora(tmp_path / "foreign.safetensors", {f"x.{key}": one for key, one in factors.items()}, {})
    with pytest.raises(BundleError, match="foreign.safetensors fits no layer"):
        surgery.add_lora(model, None, foreign, 1.0, 1.0)
    wide = {key: (up.repeat(2, *[1] * (up.dim() - 1)), down, alpha) for key, (up, down, alpha) in factors.items()}
    with pytest.raises(BundleError, match="made for another model"):
        surgery.add_lora(model, None, save_lora(tmp_path / "wide.safetensors", wide, {}), 1.0, 1.0)
    more = save_lora(tmp_path / "more.safetensors", {**factors, "diffusion_model.other": next(iter(factors.values()))}, {})
    with caplog.at_level(logging.WARNING, "rapiddraw"):
        surgery.add_lora(model, None, more, 1.0, 1.0)
    assert "1 of its" in caplog.text
