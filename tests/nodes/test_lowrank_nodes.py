"""The low-rank nodes on tiny models: factor, save, load again, merge back."""

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.format import read_info
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.host import current
from rapiddraw.core.lowrank.latency import WORTH_STARTING, layer_inputs, slower_by_count, slower_when_counted, slower_when_measured
from rapiddraw.core.lowrank.layers import has_factors
from rapiddraw.core.operations.factorize import factorize_model, save_model
from rapiddraw.nodes.lowrank import FactorizeUNet, LowRankUNETLoader, SaveLowRankUNet

LATENT = {"samples": torch.zeros(1, 4, 8, 8)}
SWITCHES = {"attention": True, "feed_forward": True, "resnet": True, "projection": True}


@pytest.fixture
def model(tiny_weights, tmp_path, monkeypatch):
    for name, folder in (("input", "in"), ("output", "out"), ("temp", "temp")):
        monkeypatch.setitem(paths._dirs, name, tmp_path / folder)
    return current().model.load(tiny_weights / "tiny-unet.safetensors")


def denoised(model):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.model.apply_model(x, torch.tensor([2.0]), torch.ones(1, 3, model.model.context_width))


def factored(model, **more):
    inputs = {"mode": "param_ratio", "value": 0.7, "split": "paper", "latency": "off", **SWITCHES, **more}
    return FactorizeUNet().execute(model, **inputs)


def test_factoring_makes_a_smaller_model_and_leaves_the_given_one_alone(model):
    before = denoised(model)
    low, report, plot = factored(model, latent=LATENT)
    assert torch.equal(denoised(model), before) and not torch.equal(denoised(low), before)
    for word in ("parameters", "multiply-adds", "step ms", "0.69", "rank "):
        assert word in report
    assert plot.ndim == 4 and plot.shape[-1] == 3 and 0 <= plot.min() <= plot.max() <= 1


def test_saved_and_loaded_it_draws_the_same_and_merged_back_as_well(model):
    low = factored(model)[0]
    saved = SaveLowRankUNet().execute(low, "small", False)
    assert saved["result"] == ("small.safetensors",) and read_info(paths.made_weights_dir() / "small.safetensors").kind == "unet"
    again = LowRankUNETLoader().execute("small.safetensors")[0]
    assert has_factors(current().speed.network_of("model", again))
    assert torch.allclose(denoised(again), denoised(low), atol=5e-3)  # stored in half precision
    dense = current().model.load(save_model(low, "dense", True))
    assert not has_factors(current().speed.network_of("model", dense)) and torch.allclose(denoised(dense), denoised(low), atol=5e-3)


def test_nothing_but_a_unet_is_replaced_and_no_name_leaves_the_folder(model):
    folder = paths.made_weights_dir()
    folder.mkdir(parents=True)
    from rapiddraw.tests.helpers import write_vae

    write_vae(folder / "mine.safetensors")
    with pytest.raises(BundleError, match="another kind"):
        save_model(model, "mine", False)
    with pytest.raises(InputError):
        save_model(model, "../out", False)


def test_layers_that_would_not_gain_stay_dense(model):
    network = current().speed.network_of("model", model)
    inputs = layer_inputs(network, current().surgery.evaluate(model, LATENT))
    name, layer = next((n, m) for n, m in network.named_modules() if n.endswith("conv1"))
    assert inputs[name].shape[1] == layer.in_channels and inputs[name].positions == inputs[name].shape[-1] * inputs[name].shape[-2]
    assert slower_by_count(name, layer, 1) is None and "multiply-adds" in slower_by_count(name, layer, layer.weight.shape[0])
    saved = inputs[name].positions * (layer.weight.numel() - len(layer.weight) - layer.weight[0].numel())
    answer = slower_when_counted(inputs)(name, layer, 1)
    assert (answer is None) == (saved >= WORTH_STARTING) and slower_when_counted({})(name, layer, 1) is None
    answer = slower_when_measured(inputs)(name, layer, 1)
    assert answer is None or "of the dense time" in answer
    assert "did not run" in slower_when_measured({})(name, layer, 1)
    counted = factorize_model(model, "param_ratio", 0.95, latency="count")[1]
    assert any(p.rank is None and "multiply-adds" in p.reason for p in counted.plan)


def test_what_cannot_be_is_said(model):
    with pytest.raises(InputError, match="link a latent"):
        factorize_model(model, latency="measure")
    with pytest.raises(InputError, match="latency='fast'"):
        factorize_model(model, latency="fast")
    with pytest.raises(InputError, match="nothing to factor"):
        factored(model, attention=False, feed_forward=False, resnet=False, projection=False)
    with pytest.raises(InputError, match="already low-rank"):
        factored(factored(model)[0])


def broken(bundle_path, out, how):
    """A low-rank bundle with one thing wrong, written past the checks of our own writer."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    tensors = load_file(bundle_path)
    name = next(key for key in tensors if key.endswith("to_q.b.weight")).removesuffix(".b.weight")
    a, b = f"{name}.a.weight", f"{name}.b.weight"
    if how == "half":
        del tensors[a]
    elif how == "shape":
        tensors[a] = tensors[a][:-1].clone()
    elif how == "rank":
        tensors[a], tensors[b] = torch.zeros(len(tensors[a]), 500).half(), torch.zeros(500, tensors[b].shape[1]).half()
    elif how == "nan":
        tensors[a][0, 0] = float("nan")
    elif how == "stranger":
        tensors["no.such.layer.a.weight"], tensors["no.such.layer.b.weight"] = torch.zeros(4, 1), torch.zeros(1, 4)
    with safe_open(bundle_path, "pt") as file:
        save_file(tensors, out, metadata=file.metadata())
    return name


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("half", "only one of its two factors"),
        ("shape", "do not make a weight of"),
        ("rank", "factors are no smaller"),
        ("nan", "NaN or infinite"),
        ("stranger", "does not have"),
    ],
)
def test_broken_factor_files_are_refused_by_the_loader_with_their_name(model, how, words):
    good = save_model(factored(model)[0], "good", False)
    name = broken(good, good.with_name("broken.safetensors"), how)
    with pytest.raises(BundleError, match=words) as refused:
        LowRankUNETLoader().execute("broken.safetensors")
    assert "broken.safetensors" in str(refused.value) and (name in str(refused.value) or how == "stranger")
