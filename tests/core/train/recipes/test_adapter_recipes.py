"""The recipes that adapt a frozen U-Net: Kronecker updates and image tokens. They learn, and leave the rest as it was."""

import pytest
import torch
from rapiddraw.core.bundles.format import read_info, save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import InputError
from rapiddraw.core.host import current
from rapiddraw.core.lowrank.adapter import load_adapter
from rapiddraw.core.lowrank.kronecker import materialize
from rapiddraw.core.operations.adapt import adapt_model
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.paths import file_sha256
from rapiddraw.core.text.image_tokens import encode_variation
from rapiddraw.core.text.image_tower import ImageTower, to_bundle
from rapiddraw.core.train import make_recipe
from rapiddraw.core.train.recipe import derived_seed
from rapiddraw.tests.core.train.toy import train_beside
from rapiddraw.tests.helpers import seeded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset("train", 24, 64, tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    made = seeded(lambda: ImageTower(16, (8, 8), 12).eval())
    return save_bundle(tmp_path_factory.mktemp("tower") / "tiny-image.safetensors", *to_bundle(made))


def recipe(name, folder, weights, **changes):
    bundles = {
        key: str(weights / f"tiny-{file}.safetensors")
        for key, file in (("vae", "vae"), ("text", "text"), ("graph", "kg"), ("base", "unet"))
    }
    small = {"size": 64, "batch_size": 4, "warmup": 0, "precision": "no", "ema": 0.0, "timesteps": "uniform"}
    return make_recipe(name, {"data": str(folder), **bundles, **small, **changes})


@pytest.mark.parametrize("changes", [{}, {"share": True, "word": "cartoon", "instead": "photo"}])
def test_a_kronecker_adapter_is_trained_resumed_and_put_on_the_model(folder, tiny_weights, tmp_path, changes):
    made = recipe("kronecker", folder, tiny_weights, rank=2, lr=1e-2, **changes)
    out = train_beside(made, tmp_path / "a.safetensors", 3).files[0]
    updates = load_adapter(out)
    assert len(updates) > 4 and all(".attn" in name or ".ff." in name for name in updates)
    assert any(materialize(*update).abs().max() > 1e-4 for update in updates.values())
    model = current().model.load(tiny_weights / "tiny-unet.safetensors")
    x, sigma, tokens = torch.randn(1, 4, 8, 8), torch.tensor([2.0]), torch.randn(1, 5, model.model.context_width)
    before = model.model.apply_model(x, sigma, tokens)
    assert adapt_model(model, out, 0.0) is model
    adapted = adapt_model(model, out, 1.0)
    trained = made.unet(
        model.model.model_sampling.calculate_input(sigma, x), model.model.model_sampling.timestep(sigma), tokens
    ).sample.detach()
    mine = adapted.model.apply_model(x, sigma, tokens)
    assert torch.equal(model.model.apply_model(x, sigma, tokens), before) and not torch.equal(mine, before)
    assert torch.allclose(mine, model.model.model_sampling.calculate_denoised(sigma, trained, x), atol=5e-3)  # stored in half precision
    shared = {id(p) for p in model.model.diffusion_model.parameters()} & {id(p) for p in adapted.model.diffusion_model.parameters()}
    assert len(shared) > 50  # what does not change is not copied
    if changes:
        texts = [made.caption(i, torch.Generator().manual_seed(0)) for i in made.used]
        assert texts and all("photo" in text and "cartoon" not in text for text in texts)


def test_image_tokens_are_trained_and_prompt_the_model(folder, tiny_weights, tower, tmp_path):
    made = recipe("image_tokens", folder, tiny_weights, tower=str(tower), hidden=8, reading=30, pictures=8)
    out = train_beside(made, tmp_path / "t.safetensors", 4).files[0]
    info = read_info(out, "image_tokens")
    assert info.config["tokens"] == 32 and info.config["tower"]["sha256"] == file_sha256(tower)
    unread, read = (recipe("image_tokens", folder, tiny_weights, tower=str(tower), hidden=8, reading=n, pictures=8) for n in (1, 30))
    for fresh in (unread, read):
        torch.manual_seed(derived_seed(0, "setup"))
        fresh.setup(torch.device("cpu"))
    assert info.provenance["metrics"]["reading_error"] == pytest.approx(read.reading_error, abs=1e-3)
    assert read.reading_error < 0.9 * unread.reading_error  # reading taught it something
    changed = [not torch.equal(a, b) for a, b in zip(read.projection.parameters(), made.projection.parameters(), strict=True)]
    assert all(changed)  # and so did the training after it, to every weight
    conditioning = encode_variation(torch.rand(2, 20, 20, 3), out, tower, 1.0)
    assert conditioning[0][0].shape == (2, 32, 32)
    with torch.no_grad():
        pictures = torch.stack([made.images.image(i) for i in (0, 1)])
        wanted = made.projection(made.embeddings[:2])
    found = encode_variation(pictures.movedim(1, -1) / 2 + 0.5, out, tower, 1.0)[0][0]
    assert torch.allclose(found, wanted, atol=2e-2)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("kronecker", {"base": ""}, "base is empty"), ("kronecker", {"targets": ("norms",)}, "expected some of"),
        ("kronecker", {"text_lr": 1e-4}, "text_lr"), ("image_tokens", {}, "tower is empty"),
        ("image_tokens", {"tower": "x", "alone": 2.0}, "alone=2.0"), ("image_tokens", {"tower": "x", "reading": -1}, "reading=-1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(folder, tiny_weights, name, changes, words):
    with pytest.raises(InputError, match=words):
        recipe(name, folder, tiny_weights, **changes).check()


def test_reading_takes_as_many_tokens_as_a_text_has(folder, tiny_weights, tower):
    with pytest.raises(InputError, match="tokens=3: with reading=5"):
        recipe("image_tokens", folder, tiny_weights, tower=str(tower), tokens=3, reading=5).setup(torch.device("cpu"))


def test_a_word_that_no_caption_has_is_named(folder, tiny_weights, tmp_path):
    with pytest.raises(InputError, match="the word 'etching'"):
        train_beside(recipe("kronecker", folder, tiny_weights, word="etching"), tmp_path / "a.safetensors", 1)


def test_adapters_save_nothing_of_the_base(folder, tiny_weights, tmp_path):
    out = train_beside(recipe("kronecker", folder, tiny_weights, rank=1), tmp_path / "a.safetensors", 1).files[0]
    assert all("kron_" in name for name in load_bundle(out).tensors)
