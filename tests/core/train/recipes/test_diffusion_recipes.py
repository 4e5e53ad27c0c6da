"""The recipes of VAE, U-Net and judge: they train, they write bundles that load, and they refuse what cannot work."""

import json
import random

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from rapiddraw.core.bundles.format import read_info
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.control.bundle import build_control, load_control
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.diffusion.noise import FLOW, convention_of
from rapiddraw.core.diffusion.schedule import denoised_to_output, output_to_denoised
from rapiddraw.core.diffusion.weighting import loss_weight
from rapiddraw.core.errors import DataError, InputError
from rapiddraw.core.host import SamplingRun, current
from rapiddraw.core.lowrank.layers import has_factors
from rapiddraw.core.networks import network_of
from rapiddraw.core.orchard.dataset import samples, write_dataset
from rapiddraw.core.scoring.judge import attribute_accuracy, judge_pictures, load_judge
from rapiddraw.core.train import make_recipe
from rapiddraw.core.train.inputs.encoder import LatentEncoder
from rapiddraw.core.train.loop import Intervals, train
from rapiddraw.core.train.recipes.control import kept_conditions
from rapiddraw.core.train.recipes.judge import draw
from rapiddraw.core.train.recipes.previews import draw_previews
from rapiddraw.core.train.recipes.unet_shapes import joined_ends
from rapiddraw.tests.core.train.toy import train_beside


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset("train", 12, 64, tmp_path_factory.mktemp("data") / "set")


def losses(run_dir):
    return [json.loads(line)["loss"] for line in (run_dir / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def vae_recipe(folder, **changes):
    return make_recipe("vae", {"data": str(folder), "size": 64, "widths": (32, 32, 32), "latent_channels": 4, "batch_size": 4, **changes})


@pytest.fixture(scope="module")
def vae_path(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    train_beside(vae_recipe(folder, warmup=1), out, 6)
    return out


def test_the_vae_learns_and_says_what_latent_space_it_makes(folder, vae_path):
    found = losses(vae_path.parent / "run-vae")
    assert found[-1] < found[0]
    bundle = load_bundle(vae_path, "vae")
    latent = bundle.info.latent
    assert latent.channels == 4 and latent.factor == 4
    assert len(latent.rgb_factors) == 4 and len(latent.rgb_bias) == 3
    network = network_of(AutoencoderKL, bundle)
    with torch.no_grad():
        pictures = torch.stack([ImageFolder(folder, size=64).image(i) for i in range(12)])
        latents = network.encode(pictures).latent_dist.mode()
        again = network.decode(latents).sample.clamp(-1, 1)
    assert (latents * latent.scale).std() == pytest.approx(1.0, abs=0.01)
    error = ((again - pictures) / 2).pow(2).flatten(1).mean(1)
    assert bundle.info.provenance["metrics"]["psnr_training_pictures"] == pytest.approx(float((-10 * error.log10()).mean()), abs=0.05)


def test_decoder_only_leaves_the_encoder_and_the_latent_space_as_they_are(folder, vae_path, tmp_path):
    out = tmp_path / "tuned.safetensors"
    train_beside(vae_recipe(folder, base=str(vae_path), decoder_only=True, warmup=1), out, 2)
    before, after = load_bundle(vae_path), load_bundle(out)
    assert after.info.latent == before.info.latent
    frozen = [name for name in before.tensors if name.startswith(("encoder.", "quant_conv."))]
    assert frozen and all(torch.equal(before.tensors[name], after.tensors[name]) for name in frozen)
    assert not torch.equal(before.tensors["decoder.conv_in.weight"], after.tensors["decoder.conv_in.weight"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"widths": (48, 96)}, "multiples of 32"), ({"size": 62}, "multiple of the factor"), ({"decoder_only": True}, "base=")],
)
def test_a_vae_that_cannot_be_is_refused(folder, changes, words):
    with pytest.raises(InputError, match=words):
        vae_recipe(folder, **changes).check()


def unet_recipe(folder, vae_path, tiny_weights, **changes):
    bundles = {
        "vae": str(vae_path),
        "text": str(tiny_weights / "tiny-text.safetensors"),
        "graph": str(tiny_weights / "tiny-kg.safetensors"),
    }
    small = {"size": 64, "widths": (32, 64), "attention": (0, 1), "heads": 2, "batch_size": 4, "warmup": 1, "precision": "no"}
    return make_recipe("unet", {"data": str(folder), **bundles, **small, **changes})


def test_the_unet_and_its_text_encoder_train_together(folder, vae_path, tiny_weights, tmp_path):
    out = tmp_path / "orchard-unet.safetensors"
    result = train_beside(unet_recipe(folder, vae_path, tiny_weights), out, 4)
    assert [path.name for path in result.files] == ["orchard-unet.safetensors", "orchard-text.safetensors"]
    info = read_info(out, "unet")
    assert info.schedule.prediction == "v" and info.latent == read_info(vae_path).latent
    before, after = load_bundle(tiny_weights / "tiny-text.safetensors"), load_bundle(result.files[1], "text")
    words = "text_model.embeddings.token_embedding.weight"
    assert not torch.equal(before.tensors[words], after.tensors[words])
    assert torch.equal(before.tensors["text_projection.weight"], after.tensors["text_projection.weight"])
    again = train_beside(unet_recipe(folder, vae_path, tiny_weights), tmp_path / "again" / "orchard-unet.safetensors", 4)
    assert torch.equal(load_bundle(again.files[0]).tensors["conv_in.weight"], load_bundle(out).tensors["conv_in.weight"])


def test_a_unet_can_be_trained_further_where_it_fits(folder, vae_path, tiny_weights, tmp_path):
    first = train_beside(unet_recipe(folder, vae_path, tiny_weights, text_lr=0.0), tmp_path / "first.safetensors", 2).files[0]
    further = train_beside(
        unet_recipe(folder, vae_path, tiny_weights, text_lr=0.0, base=str(first)), tmp_path / "further.safetensors", 2
    ).files[0]
    assert read_info(further).provenance["first_stage"] == read_info(first).provenance
    assert read_info(further).config == read_info(first).config
    with pytest.raises(InputError, match=r"does not fit.*prediction='eps'"):
        unet_recipe(folder, vae_path, tiny_weights, base=str(first), prediction="eps").setup(torch.device("cpu"))
    with pytest.raises(InputError, match="does not fit: its latents"):
        unet_recipe(folder, vae_path, tiny_weights, base=str(tiny_weights / "tiny-unet.safetensors")).setup(torch.device("cpu"))


def test_a_flow_unet_is_a_flow_model_in_the_host(folder, vae_path, tiny_weights, tmp_path):
    recipe = unet_recipe(folder, vae_path, tiny_weights, text_lr=0.0, prediction="flow", timesteps="logit_normal")
    written = train_beside(recipe, tmp_path / "flow.safetensors", 4).files[0]
    assert read_info(written, "unet").schedule.prediction == "flow"
    model = current().model.load(written)
    sampling = model.get_model_object("model_sampling")
    assert convention_of(sampling) == FLOW and float(sampling.sigma_max) == 1.0
    text = current().clip.encode(current().clip.load(tiny_weights / "tiny-text.safetensors"), "a red fruit")
    guider = current().sampling.make_guider(model, text, text, 1.0)
    drawn = current().sampling.sample(guider, {"samples": torch.zeros(1, 4, 16, 16)}, SamplingRun(1, 3, "euler", "simple"))["samples"]
    assert drawn.isfinite().all() and drawn.std() > 0.1
    asked = recipe.noised(recipe.batch(0, torch.Generator().manual_seed(0)))
    assert float(asked.sigma.min()) > 0 and float(asked.sigma.max()) <= 1
    level = asked.sigma.reshape(-1, 1, 1, 1)
    noise = denoised_to_output("flow", asked.sigma, asked.latents, asked.noisy) + asked.latents
    torch.testing.assert_close(asked.noisy, (1 - level) * asked.latents + level * noise, rtol=1e-3, atol=1e-3)
    teacher = current().training.denoiser(model)  # a flow model can be distilled
    states = teacher.noised(asked.latents, asked.sigma, noise - 0 * asked.latents)
    torch.testing.assert_close(states, asked.noisy, rtol=1e-3, atol=1e-3)


def test_a_unet_moves_to_another_vaes_latents(folder, vae_path, tiny_weights, tmp_path):
    tiny = load_bundle(tiny_weights / "tiny-unet.safetensors")
    recipe = unet_recipe(folder, vae_path, tiny_weights, base=str(tiny_weights / "tiny-unet.safetensors"), new_latents=True)
    recipe.setup(torch.device("cpu"))
    moved = recipe.unet.state_dict()
    assert recipe.config["in_channels"] == recipe.config["out_channels"] == recipe.latent_space.channels
    ends = ("conv_in.", "conv_out.")
    assert all(torch.equal(moved[key], tiny.tensors[key].float()) for key in moved if not key.startswith(ends))
    assert moved["conv_in.weight"].shape[1] == recipe.latent_space.channels
    with pytest.raises(InputError, match="base is empty"):
        unet_recipe(folder, vae_path, tiny_weights, new_latents=True).check()


def test_a_unet_moves_to_other_latents_by_what_they_share(folder, vae_path, tiny_weights):
    """The same latents in another order and scale: the moved U-Net reads and writes them as the first one did its own."""
    tiny = load_bundle(tiny_weights / "tiny-unet.safetensors")
    config = dict(tiny.info.config)
    channels = config["in_channels"]
    turn = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(0)))[0]
    moved = joined_ends(tiny, turn.T, turn)  # new = turn @ old
    assert moved.info.config["in_channels"] == channels
    latents, tokens, t = torch.randn(2, channels, 8, 8), torch.randn(2, 5, config["cross_attention_dim"]), torch.tensor([10, 700])
    turned = torch.einsum("no,bohw->bnhw", turn, latents)
    with torch.no_grad():
        before = network_of(UNet2DConditionModel, tiny)(latents, t, encoder_hidden_states=tokens)[0]
        after = network_of(UNet2DConditionModel, moved)(turned, t, encoder_hidden_states=tokens)[0]
    torch.testing.assert_close(after, torch.einsum("no,bohw->bnhw", turn, before), rtol=1e-3, atol=1e-3)


def test_a_moved_unet_starts_from_a_fit_to_its_old_vae(folder, vae_path, tiny_weights):
    tiny = load_bundle(tiny_weights / "tiny-unet.safetensors")
    base = {"base": str(tiny_weights / "tiny-unet.safetensors"), "new_latents": True}
    recipe = unet_recipe(folder, vae_path, tiny_weights, **base, base_vae=str(vae_path))
    recipe.setup(torch.device("cpu"))  # the old latents are the new ones: nothing changes, but for the ridge of the fit
    for end in ("conv_in.weight", "conv_out.weight"):
        torch.testing.assert_close(recipe.unet.state_dict()[end], tiny.tensors[end].float(), rtol=0.02, atol=2e-3)
    with pytest.raises(InputError, match="divides sides by 8"):
        unet_recipe(folder, vae_path, tiny_weights, **base, base_vae=str(tiny_weights / "tiny-vae.safetensors")).setup(torch.device("cpu"))
    with pytest.raises(InputError, match="set new_latents=true"):
        unet_recipe(folder, vae_path, tiny_weights, base=base["base"], base_vae=str(vae_path)).check()
    with pytest.raises(InputError, match="have 7 channels, the U-Net 4"):
        joined_ends(tiny, torch.eye(8)[:7], torch.eye(8)[:, :7])


def test_a_frozen_text_encoder_is_not_written_again(folder, vae_path, tiny_weights, tmp_path):
    result = train_beside(unet_recipe(folder, vae_path, tiny_weights, text_lr=0.0, graph=""), tmp_path / "u.safetensors", 2)
    assert [path.name for path in result.files] == ["u.safetensors"]


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_min_snr_weighs_the_same_error_of_x0_alike_in_every_prediction(folder, vae_path, tiny_weights, prediction):
    """A network that is off by the same x0 is punished by min(SNR, 5) times its square, whatever it predicts."""
    recipe = unet_recipe(folder, vae_path, tiny_weights, prediction=prediction, weighting="min_snr")
    sigma = torch.tensor([0.05, 0.5, 1.0, 5.0])
    x = torch.zeros(4, 1)
    unit = output_to_denoised(prediction, sigma, torch.ones(4, 1), x) - output_to_denoised(prediction, sigma, torch.zeros(4, 1), x)
    per_x0 = loss_weight(recipe.weighting, prediction, sigma) / unit[:, 0] ** 2  # what an x0 error of one costs
    assert torch.allclose(per_x0, (sigma**-2).clamp(max=5.0), rtol=1e-5)


def test_the_error_inside_segmented_objects_counts_more(folder, vae_path, tiny_weights, tmp_path):
    with pytest.raises(DataError, match="no segmentation map"):
        unet_recipe(folder, vae_path, tiny_weights, foreground=4.0).setup(torch.device("cpu"))
    mapped = write_dataset("train", 12, 64, tmp_path / "mapped", maps=("segmentation",))
    recipe = unet_recipe(mapped, vae_path, tiny_weights, foreground=4.0)
    recipe.setup(torch.device("cpu"))
    weights = torch.stack(recipe.weights)
    assert weights.shape == (12, 1, 16, 16) and weights.mean() == pytest.approx(1.0, abs=1e-5)
    assert weights.max() / weights.min() == pytest.approx(4.0)
    fruit = torch.from_numpy(recipe.images.map(0, "segmentation").copy()) >= 2
    inside = torch.nn.functional.adaptive_avg_pool2d(fruit[None].float(), 16)
    assert torch.equal(weights[0] > weights.min(), inside > 0)
    result = train_beside(recipe, tmp_path / "weighted.safetensors", 4)
    assert result.losses[-1][1] < result.losses[0][1]


@pytest.mark.parametrize(("low", "high"), [(0, 1000), (500, 1000), (0, 500)])
def test_logit_normal_timesteps_stay_in_range_and_lean_upwards(folder, vae_path, tiny_weights, low, high):
    recipe = unet_recipe(folder, vae_path, tiny_weights, timesteps="logit_normal", t_min=low, t_max=high)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = recipe._draw_timesteps(20_000)
    assert drawn.min() >= low and drawn.max() < high
    median = torch.sigmoid(torch.tensor(0.7))
    assert (drawn.float().median() - low) / (high - low) == pytest.approx(float(median), abs=0.02)


def test_what_a_unet_needs_is_named(folder, vae_path, tiny_weights):
    for changes, words in [
        ({"vae": ""}, "vae is empty"),
        ({"t_min": 600, "t_max": 500}, "t_min=600"),
        ({"weighting": "snr"}, "min_snr"),
        ({"widths": (40, 80)}, "multiples of 32"),
        ({"timesteps": "late"}, "logit_normal"),
        ({"foreground": 0.5}, "foreground=0.5"),
    ]:
        with pytest.raises(InputError, match=words):
            unet_recipe(folder, vae_path, tiny_weights, **changes).check()


def test_latents_are_encoded_once(folder, vae_path, tiny_weights, monkeypatch):
    recipe = unet_recipe(folder, vae_path, tiny_weights)
    recipe.setup(torch.device("cpu"))
    first = recipe.latents
    assert first.shape == (12, 4, 16, 16) and first.float().std() == pytest.approx(1.0, abs=0.15)
    monkeypatch.setattr("rapiddraw.core.train.inputs.encoder.network_of", lambda *_: pytest.fail("encoded again"))
    again = unet_recipe(folder, vae_path, tiny_weights)
    again.setup(torch.device("cpu"))
    assert torch.equal(again.latents, first)


def test_the_judge_learns_and_is_measured_on_held_out_scenes(tmp_path):
    out = tmp_path / "judge.safetensors"
    result = train_beside(make_recipe("judge", {"width": 8, "batch_size": 8, "held_out": 16, "warmup": 1}), out, 3)
    judge = load_judge(out)
    assert result.files == [out] and judge.squeeze.out_features == 128
    metrics = read_info(out, "judge").provenance["metrics"]
    scenes = [sample.scene for sample in samples("test", 16)]
    found = attribute_accuracy(judge_pictures(judge, draw(scenes))[0], scenes)
    assert {name: metrics[name] for name in found} == pytest.approx(found, abs=1e-4)


def test_low_resolution_pictures_are_enlarged_or_left_out(folder, vae_path):
    from rapiddraw.core.train.inputs.latents import folder_latents, low_pictures

    low = low_pictures(12, 0.25, 0)
    assert len(low) == 3 and low == low_pictures(12, 0.25, 0) != low_pictures(12, 0.25, 1)
    images = ImageFolder(folder, size=64)
    whole, enlarged = (folder_latents(images, vae_path, torch.device("cpu"), low=given)[0] for given in ((), low))
    assert [i for i in range(12) if not torch.equal(whole[i], enlarged[i])] == sorted(low)
    shipped = {"data": str(folder), "vae": str(vae_path), "text": "t"}
    with pytest.raises(InputError, match="low_share"):
        make_recipe("unet", {**shipped, "low_share": 1.5}).check()
    with pytest.raises(InputError, match="left to train on"):
        make_recipe("unet", {**shipped, "low_share": 1.0, "low_kept": False}).check()


def control_recipe(folder, vae_path, tiny_weights, unet, **changes):
    bundles = {"vae": str(vae_path), "text": str(tiny_weights / "tiny-text.safetensors"), "base": str(unet)}
    small = {"size": 64, "batch_size": 4, "warmup": 1, "precision": "no", "features": (4, 8), "ema": 0.0, "lr": 1e-2}
    return make_recipe("control", {"data": str(folder), **bundles, **small, **changes})


def test_a_control_adapter_trains_beside_a_unet_that_stays_as_it_is(vae_path, tiny_weights, tmp_path):
    folder = write_dataset("train", 8, 64, tmp_path / "maps", maps=("edges", "segmentation"))
    unet = train_beside(unet_recipe(folder, vae_path, tiny_weights, text_lr=0.0), tmp_path / "unet.safetensors", 1).files[0]
    given = {"conditions": ("edges", "segmentation"), "format": "lowrank", "ratio": 0.4}
    recipe = control_recipe(folder, vae_path, tiny_weights, unet, **given)
    result = train_beside(recipe, tmp_path / "control.safetensors", 3)
    bundle = load_control(result.files[0])
    assert bundle.info.config["conditions"] == ["edges", "segmentation"] and bundle.info.schedule == read_info(unet).schedule
    trained = sum(p.numel() for p in recipe.adapter.parameters() if p.requires_grad)
    assert bundle.info.provenance["metrics"]["trained_parameters"] == trained < sum(p.numel() for p in recipe.unet.parameters())
    adapter = build_control(bundle)
    assert has_factors(adapter.encoder) and all(zero.weight.any() for zero in adapter.zero)
    before = load_bundle(unet).tensors
    assert all(torch.equal(before[name], tensor.half()) for name, tensor in recipe.unet.state_dict().items())
    with pytest.raises(DataError, match="no sketch map"):
        control_recipe(folder, vae_path, tiny_weights, unet).setup(torch.device("cpu"))


def test_conditions_are_dropped_as_in_the_paper():
    rng = random.Random(5)
    drawn = [tuple(kept_conditions(3, 0.1, 0.1, 0.5, rng)) for _ in range(4000)]
    assert abs(drawn.count((True,) * 3) / 4000 - (0.1 + 0.8 / 8)) < 0.03
    assert abs(drawn.count((False,) * 3) / 4000 - (0.1 + 0.8 / 8)) < 0.03
    assert len(set(drawn)) == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "huge"}, "format="), ({"features": ()}, "features="), ({"drop_each": 2.0}, "drop_each="),
        ({"keep_all": 0.7, "drop_all": 0.7}, "add up"), ({"text_lr": 1e-4}, "belong to the unet recipe"), ({"base": ""}, "base is empty"),
        ({"buckets": True}, "buckets=true is for the recipe unet"),
    ],
)  # fmt: skip
def test_a_control_recipe_that_cannot_be_is_refused(folder, vae_path, tiny_weights, changes, words):
    with pytest.raises(InputError, match=words):
        control_recipe(folder, vae_path, tiny_weights, tiny_weights / "tiny-unet.safetensors", **changes).check()


@pytest.mark.parametrize("prediction", ["v", "flow"])
def test_a_unet_shows_what_it_draws_while_it_is_trained(folder, vae_path, tiny_weights, tmp_path, prediction):
    recipe = unet_recipe(folder, vae_path, tiny_weights, text_lr=0.0, prediction=prediction)
    train(recipe, tmp_path / "u.safetensors", 4, run_dir=tmp_path / "run", every=Intervals(save=4, evaluate=2), device="cpu")
    sheets = [Image.open(tmp_path / "run" / f"samples-0000000{step}.png") for step in (2, 4)]
    assert [sheet.size for sheet in sheets] == [(4 * 64, 2 * 64)] * 2 and sheets[0].tobytes() != sheets[1].tobytes()


def test_previews_come_nearer_to_what_a_perfect_network_knows(folder, vae_path, tiny_weights):
    recipe = unet_recipe(folder, vae_path, tiny_weights, text_lr=0.0)
    recipe.setup(torch.device("cpu"))
    known = recipe.latents[recipe.used[:2]].float().repeat(2, 1, 1, 1)

    def perfect(batch, network_input, t, tokens):
        sigma = recipe.noise_levels.sigma(t)
        x = network_input * (1 + sigma.reshape(-1, 1, 1, 1) ** 2).sqrt()
        return denoised_to_output("v", sigma, known, x)

    recipe.predict = perfect
    drawn = draw_previews(recipe, ["a", "b"])
    torch.testing.assert_close(drawn, LatentEncoder(vae_path, torch.device("cpu")).decode(known[:2]), rtol=0, atol=1e-3)
