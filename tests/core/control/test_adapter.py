"""The control adapter: nothing at the start, the U-Net's own states inside, and files that are refused by name."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from rapiddraw.core.bundles.format import save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.control.adapter import ControlAdapter, copy_of_unet
from rapiddraw.core.control.bundle import build_control, load_control, save_control
from rapiddraw.core.control.hints import fit_hint, hint_batch, map_hint, merge_hints, place_hint
from rapiddraw.core.control.layers import FDN, through
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.lowrank.factorize import factorize
from rapiddraw.core.lowrank.layers import has_factors
from rapiddraw.core.networks import network_of
from rapiddraw.tests.helpers import write_control

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))
HINT = torch.rand(2, 9, 64, 64, generator=torch.Generator().manual_seed(2))
T = torch.tensor([20, 700])


@pytest.fixture(scope="module")
def base(tiny_weights):
    return load_bundle(tiny_weights / "tiny-unet.safetensors")


@pytest.fixture(scope="module")
def unet(base):
    return network_of(UNet2DConditionModel, base)


def controlled(unet, skips, middle):
    more = {"down_block_additional_residuals": tuple(skips), "mid_block_additional_residual": middle}
    return unet(X, T, encoder_hidden_states=TOKENS, return_dict=False, **more)[0]


@pytest.mark.parametrize("low", [False, True])
@torch.no_grad()
def test_an_untrained_adapter_changes_nothing_and_its_encoder_is_the_unets(base, low):
    unet = network_of(UNet2DConditionModel, base)
    if low:
        factorize(unet, "param_ratio", 0.61)
    adapter, _ = copy_of_unet(unet, 8)
    assert has_factors(adapter.encoder) == low
    skips, middle = adapter(X, T, TOKENS, HINT)
    assert all(not residual.any() for residual in (*skips, middle))
    plain = unet(X, T, encoder_hidden_states=TOKENS, return_dict=False)[0]
    assert torch.equal(plain, controlled(unet, skips, middle))
    seen = {}
    handle = unet.mid_block.register_forward_hook(lambda module, given, output: seen.update(middle=output))
    unet(X, T, encoder_hidden_states=TOKENS)
    handle.remove()
    states, mine = through(adapter.source, adapter.extractor(HINT), lambda: adapter._encode(X, T, TOKENS, None))
    # Feature denormalisation is the norm it replaces, as long as it was not trained.
    assert torch.equal(mine, seen["middle"]) if not low else torch.allclose(mine, seen["middle"], atol=1e-5)
    assert [state.shape for state in states] == [skip.shape for skip in skips]
    assert adapter.source.levels == []


def test_every_part_of_the_copy_learns_and_nothing_is_shared(unet):
    adapter, _ = copy_of_unet(unet, 8)
    with torch.no_grad():
        for parameter in adapter.zero.parameters():
            parameter.normal_(std=0.1)
        for module in adapter.modules():
            if isinstance(module, FDN):
                module.gamma.weight.normal_(std=0.1)
    skips, middle = adapter(X, T, TOKENS, HINT)
    sum(residual.square().mean() for residual in (*skips, middle)).backward()
    still = [name for name, parameter in adapter.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not [name for name in still if not name.endswith("attn2.to_k.bias")]
    mine, theirs = {p.data_ptr() for p in adapter.parameters()}, {p.data_ptr() for p in unet.parameters()}
    assert not mine & theirs


@torch.no_grad()
def test_a_bundle_gives_the_same_adapter(unet, base, tmp_path):
    path = write_control(tmp_path / "c.safetensors", base.info.path)
    bundle = load_control(path)
    assert bundle.info.config["conditions"] == ["edges", "segmentation", "sketch"] and bundle.info.latent == base.info.latent
    one, other = build_control(bundle), build_control(load_control(path))
    for a, b in zip(one(X, T, TOKENS, HINT)[0], other(X, T, TOKENS, HINT)[0], strict=True):
        assert torch.equal(a, b) and a.any()


def test_each_condition_has_its_own_channels(unet):
    picture = torch.rand(1, 64, 64, 3)
    conditions = ("edges", "segmentation", "sketch")
    hint = merge_hints({"segmentation": picture}, conditions)
    assert hint.shape == (1, 9, 64, 64) and not hint[:, :3].any() and not hint[:, 6:].any()
    assert torch.equal(hint[:, 3:6], picture.movedim(-1, 1))
    assert torch.equal(place_hint(picture.movedim(-1, 1), conditions, "segmentation"), hint)
    assert torch.equal(place_hint(hint, conditions, "edges"), hint)
    smaller = merge_hints({"edges": torch.rand(2, 64, 64, 3), "sketch": torch.rand(1, 32, 32, 3)}, conditions)
    assert smaller.shape == (2, 9, 64, 64)
    for images, words in (
        ({"depth": picture}, "knows no condition depth"),
        ({}, "no condition is given"),
        ({"edges": torch.rand(2, 8, 8, 3), "sketch": torch.rand(3, 8, 8, 3)}, "batches"),
        ({"edges": torch.full((1, 8, 8, 3), float("nan"))}, "NaN"),
        ({"edges": torch.rand(1, 8, 8, 7)}, "must be an IMAGE"),
    ):
        with pytest.raises(InputError, match=words):
            merge_hints(images, conditions)


def test_hints_are_fitted_to_the_picture_and_its_batch():
    hint = torch.zeros(1, 3, 4, 8)
    hint[..., 2:6] = 1.0
    assert torch.equal(fit_hint(hint, 2, 2), torch.ones(1, 3, 2, 2))  # the middle square
    line = torch.zeros(1, 3, 128, 128)
    line[..., 65] = 1.0
    assert fit_hint(line, 64, 64)[..., 32].min() == 0.5  # a thin line is thinner, and not lost
    rows = torch.arange(3.0).reshape(3, 1, 1, 1)
    assert hint_batch(rows, 4, 2).flatten().tolist() == [0, 1, 0, 1]
    assert hint_batch(rows, 4, 1).flatten().tolist() == [0, 1, 2, 0]
    classes = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8)
    assert map_hint("segmentation", classes)[:, 1, 0].tolist() == [1, 0, 0]
    assert map_hint("edges", classes * 85)[:, 1, 1].tolist() == [1, 1, 1]


def test_a_hint_of_the_wrong_size_is_refused(unet):
    adapter, _ = copy_of_unet(unet, 8)
    with pytest.raises(InputError, match="as large as the picture"):
        adapter(X, T, TOKENS, HINT[..., :32])
    assert adapter.source.levels == []
    with pytest.raises(InputError, match="power of two"):
        copy_of_unet(unet, 6)


def test_hostile_files_are_refused_by_name(base, tmp_path):
    path = write_control(tmp_path / "good.safetensors", base.info.path)
    good = load_bundle(path)

    def written(tensors=None, **config):
        from dataclasses import replace

        bad = tmp_path / "bad.safetensors"
        whole = {key: value for key, value in {**good.info.config, **config}.items() if value is not None}
        return save_bundle(bad, good.tensors if tensors is None else tensors, replace(good.info, config=whole))

    def refused(words, tensors=None, **config):
        with pytest.raises(BundleError, match=words) as caught:
            build_control(load_control(written(tensors, **config)))
        assert "bad.safetensors" in str(caught.value)

    refused("lacks stem", stem=None)
    refused("must be an object", unet=[1])
    refused("block_out_channels", unet={**good.info.config["unet"], "block_out_channels": 7})
    refused("different names", conditions=["edges", "edges"])
    refused("different names", conditions=["e"] * 99)
    refused("more layers than the .*a list of 999", conditions=["e"] * 999)
    refused("widths of 1 to 4096", features=[4, 10**9])
    refused("widths of 1 to 4096", features=[4])
    refused("strides of 2", stem=[4])
    refused("do not make a ControlAdapter", features=[4, 9])
    refused("do not make a ControlAdapter", unet={**good.info.config["unet"], "block_out_channels": [32, 2**20]})
    refused("do not make a ControlAdapter", tensors={k: t for k, t in good.tensors.items() if k != "zero.0.weight"})
    refused("do not make a ControlAdapter", tensors={**good.tensors, "zero.0.weight": torch.zeros(1, 2, 3, 4)})
    half = {k: t for k, t in good.tensors.items() if k != "encoder.mid_block.resnets.0.conv1.weight"}
    refused("only one of its two factors", tensors={**half, "encoder.mid_block.resnets.0.conv1.a.weight": torch.zeros(64, 4, 1, 1)})
    with pytest.raises(BundleError, match="NaN"):
        save_bundle(tmp_path / "nan.safetensors", {**good.tensors, "zero.0.bias": torch.full((32,), float("nan"))}, good.info)
    with pytest.raises(BundleError, match="of kind 'unet'"):
        load_control(base.info.path)


def test_configs_are_plain_json(unet):
    adapter, config = copy_of_unet(unet, 4, ("edges",), (4,))
    again = ControlAdapter(**json.loads(json.dumps(config)))
    assert {k: tuple(t.shape) for k, t in again.state_dict().items()} == {k: tuple(t.shape) for k, t in adapter.state_dict().items()}
    assert config["stem"] == [4, 4] and config["features"] == [4, 4]


def test_saving_a_factored_copy_keeps_its_factors(base, tmp_path):
    unet = network_of(UNet2DConditionModel, base)
    adapter, config = copy_of_unet(unet, 8)
    factorize(adapter.encoder, "param_ratio", 0.5)
    made = build_control(load_control(save_control(tmp_path / "low.safetensors", adapter, config, base.info, {})))
    assert has_factors(made.encoder)
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in adapter.parameters())
