"""What a U-Net is told in training: several text encoders, the index of its resolution; and bundles that share weights with a base."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.bundles.format import read_info, save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.data.buckets import bucket_sizes, index_embedding
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.host import Host
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.orchard.entities import entities
from rapiddraw.core.paths import pack_root
from rapiddraw.core.train import make_recipe
from rapiddraw.core.train.inputs.readers import Readers
from rapiddraw.core.train.loop import train
from rapiddraw.core.train.recipes.text import TextRecipe
from rapiddraw.tests.core.train.toy import train_beside
from rapiddraw.tests.helpers import write_text, write_unet, write_vae

SMALL = {"size": 64, "batch_size": 4, "warmup": 1, "precision": "no", "text_lr": 0.0, "prediction": "v"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    write_vae(folder / "vae.safetensors")
    write_unet(folder / "unet.safetensors")
    write_text(folder / "text.safetensors")
    write_text(folder / "zh.safetensors", seed=7, width=16)
    write_text(folder / "en.safetensors", seed=8, width=16)
    write_dataset("train", 8, 64, folder / "squares")
    write_dataset("train", 11, 64, folder / "shapes", maps=("segmentation",), shapes=bucket_sizes(scale=0.125))
    return folder


def recipe(parts, data, texts="text", **changes):
    text = ",".join(str(parts / f"{name}.safetensors") for name in texts.split(","))
    given = {"data": str(parts / data), "vae": str(parts / "vae.safetensors"), "text": text, "base": str(parts / "unet.safetensors")}
    return make_recipe("unet", {**given, **SMALL, **changes})


def run(made, out, steps=2):
    return train_beside(made, out, steps).files[0]


def test_only_cross_attention_is_learned_and_only_it_is_written(parts, tmp_path):
    out = run(recipe(parts, "squares", "zh,en", trained="cross_attention", encoder_dropout=0.5, joined=0.5), parts / "tuned.safetensors")
    base, whole = load_bundle(parts / "unet.safetensors"), load_bundle(out)
    info = read_info(out)
    assert info.extra["base"]["name"] == "unet.safetensors" and out.stat().st_size < (parts / "unet.safetensors").stat().st_size / 4
    changed = {key for key in base.tensors if not torch.equal(base.tensors[key].float(), whole.tensors[key].float())}
    assert changed and all(".attn2." in key or ".norm2." in key for key in changed) and set(whole.tensors) == set(base.tensors)
    assert "base" not in whole.info.extra
    lost = tmp_path / "alone.safetensors"
    lost.write_bytes(out.read_bytes())
    with pytest.raises(BundleError, match=r"unet\.safetensors is not there"):
        load_bundle(lost)
    write_unet(tmp_path / "unet.safetensors", seed=9)
    with pytest.raises(BundleError, match="another file"):
        load_bundle(lost)


@pytest.mark.parametrize("name", ["../unet.safetensors", "", 3, "tuned2.safetensors"])
def test_a_base_that_cannot_be_is_refused(parts, tmp_path, name):
    from dataclasses import replace

    info = read_info(parts / "unet.safetensors")
    bad = replace(info, extra={"base": {"name": name, "sha256": "0" * 64}})
    with pytest.raises(BundleError):
        load_bundle(save_bundle(tmp_path / "bad.safetensors", {"x": torch.zeros(1)}, bad))


def test_tokens_of_a_caption_are_the_same_however_often_it_comes(parts):
    made = recipe(parts, "squares")
    made.setup(torch.device("cpu"))
    once = made.readers.tokens(0, ["a red apple", "", "a long caption of a blue moon on snow"])
    again = made.readers.tokens(0, ["", "a red apple", "a red apple"])
    assert torch.equal(again[0], once[0][[1, 0, 0]]) and torch.equal(again[1], once[1][[1, 0, 0]])
    fresh = Readers([str(parts / "text.safetensors")], "", torch.device("cpu")).tokens(0, ["a red apple"])
    assert torch.equal(fresh[0][0], once[0][0])


def test_a_renamed_thing_keeps_its_vector_and_loses_its_name(parts):
    graph = pack_root() / "weights" / "orchard-kg.safetensors"
    text = pack_root() / "weights" / "orchard-text.safetensors"
    name = next(entity for entity in entities() if entity.split == "seen").name_en
    readers = Readers([str(text)], str(graph), torch.device("cpu"))
    ids, rows = readers.tokens(0, [f"a {name} on snow", f"a {name} on snow", "an apple"])
    new, kept = readers.renamed(0, (ids, rows), torch.tensor([[True], [False], [True]]), torch.Generator().manual_seed(0))
    named = rows[0] > 0
    assert named.any() and torch.equal(kept, rows) and torch.equal(new[1:], ids[1:])
    assert torch.equal(new[0][~named], ids[0][~named]) and not torch.equal(new[0][named], ids[0][named])
    assert not set(new[0][named].tolist()) & set(readers.encoders[0].tokenizer.all_special_ids)
    with pytest.raises(InputError, match="set graph"):
        recipe(parts, "squares", renamed=0.5).check()
    assert "renamed" not in recipe(parts, "squares").settings()


def test_encoders_share_captions_out(parts):
    import random

    made = recipe(parts, "squares", "zh,en", encoder_dropout=1.0)
    made.setup(torch.device("cpu"))
    read = made.readers.shared_out(["a", "b", "c", ""], 1.0, random.Random(0))
    assert all({one, other} in ({"", text}, {""}) for one, other, text in zip(*read, ["a", "b", "c", ""], strict=True))
    silent = recipe(parts, "squares", "zh,en", reads=(1,))
    silent.setup(torch.device("cpu"))
    assert silent.readers.shared_out(["a"], 0.0, random.Random(0)) == [[""], ["a"]]
    batch = silent.batch(0, torch.Generator().manual_seed(0))
    assert silent.readers.encode(batch["ids"], batch["rows"])[0].shape == (4, 32, 32)
    with pytest.raises(InputError, match="reads"):
        recipe(parts, "squares", "zh,en", reads=(2,)).setup(torch.device("cpu"))
    with pytest.raises(InputError, match="features, the text encoder has 16"):
        recipe(parts, "squares", "zh").setup(torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"trained": "some"}, "trained="), ({"trained": "attention", "base": ""}, "trained="), ({"joined": 2.0}, "joined="),
     ({"text_lr": 1e-4, "text": "a,b"}, "several text encoders"), ({"buckets": True, "low_share": 0.5}, "buckets=true")],
)  # fmt: skip
def test_what_does_not_go_together_is_named(parts, changes, words):
    made = recipe(parts, "squares")
    for key, value in changes.items():
        setattr(made, key, value)
    with pytest.raises(InputError, match=words):
        made.check()


def test_a_new_index_changes_nothing_at_first_and_is_learned(parts):
    made = recipe(parts, "shapes", trained="attention", buckets=True, bucket_scale=0.125)
    made.setup(torch.device("cpu"))
    shapes = set()
    for number in range(12):
        batch = made.batch(number, torch.Generator().manual_seed(number))
        (index,) = set(batch["index"].tolist())
        height, width = bucket_sizes(scale=0.125)[index]
        assert batch["latents"].shape == (4, 4, height // 8, width // 8)
        shapes.add(batch["latents"].shape)
    assert len(shapes) > 3
    from diffusers import UNet2DConditionModel
    from rapiddraw.core.networks import network_of

    plain = network_of(UNet2DConditionModel, load_bundle(parts / "unet.safetensors"))
    x, tokens, labels = torch.randn(1, 4, 4, 8), torch.randn(1, 5, 32), torch.cat([torch.randn(1, 32), index_embedding(1)], 1)
    with torch.no_grad():
        told = made.unet(x, 5, encoder_hidden_states=tokens, class_labels=labels, return_dict=False)[0]
        assert torch.allclose(told, plain(x, 5, encoder_hidden_states=tokens, return_dict=False)[0], atol=1e-5)
    out = run(made, parts / "sized.safetensors")
    host = Host("embedded")
    model = host.model.load(out)
    assert host.model.takes_resolution_index(model) and not host.model.takes_resolution_index(host.model.load(parts / "unet.safetensors"))
    assert model.model.pooled_width == 32


def test_checkpointing_is_the_same_training_with_less_kept(parts):
    gradients, kept = [], []
    for checkpointing in (False, True):
        made = recipe(parts, "squares", checkpointing=checkpointing)
        made.setup(torch.device("cpu"))
        batch = made.batch(0, torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        made.unet.train()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, sizes=sizes: (sizes.append(tensor.numel()), tensor)[1], lambda t: t):
            made.loss(batch)["loss"].backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in made.unet.parameters()]))
        kept.append(sum(sizes))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7) and kept[1] < 0.7 * kept[0]


def test_the_error_inside_objects_counts_more_in_every_bucket(parts):
    made = recipe(parts, "shapes", buckets=True, foreground=4.0)
    made.setup(torch.device("cpu"))
    sizes = [weight.shape for weight in made.weights]
    assert sizes == [(1, height // 8, width // 8) for height, width in bucket_sizes(scale=0.125)]
    values = torch.cat([weight.flatten() for weight in made.weights])
    assert values.mean() == pytest.approx(1.0, abs=1e-5) and values.max() / values.min() > 3
    for number in range(3):
        batch = made.batch(number, torch.Generator().manual_seed(number))
        assert batch["weights"].shape == (4, 1, *batch["latents"].shape[2:])
    assert torch.isfinite(made.loss(batch)["loss"])


def test_a_text_encoder_of_one_language_comes_into_a_space_that_is_there(tmp_path):
    tiny = {"width": 32, "layers": 1, "heads": 2, "count": 24, "batch_size": 8, "precision": "no", "warmup": 2}
    files = train(TextRecipe(projection_dim=16, **tiny), tmp_path / "my-text.safetensors", 2, run_dir=tmp_path / "a", device="cpu").files
    made = TextRecipe(image_tower=str(files[1]), lock_images=True, language="zh", **tiny)
    made.setup(torch.device("cpu"))
    with torch.no_grad():
        first = made.tower(torch.from_numpy(made.items[0].image)[None].permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert torch.allclose(first[0], made.embedded[0], atol=1e-5)
    import random

    rng = random.Random(0)
    assert not any(c.isascii() and c.isalpha() for item in made.items for c in item.draw(rng))
    batch = made.batch(0, torch.Generator().manual_seed(0))
    assert "images" not in batch and torch.isfinite(made.loss(batch)["loss"])
    for wrong in ({"language": "fr"}, {"lock_images": True}, {"start": "a", "image_tower": "b"}):
        with pytest.raises(InputError):
            TextRecipe(**wrong).check()
