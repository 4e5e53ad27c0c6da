"""Checkpoints of SD 1.5 and SDXL in the embedded host: found, read, refused with the reason, and drawn with."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.format import load_foreign
from rapiddraw.core.checkpoint import vocabulary
from rapiddraw.core.checkpoint.find import list_checkpoints, resolve_checkpoint
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.core.host.embedded.checkpoint import load_checkpoint
from rapiddraw.tests import sd_helpers
from safetensors.torch import save_file

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    checkpoints = folder / "checkpoints"
    tokenizer = sd_helpers.write_tokenizer(checkpoints / "tokenizer")
    size = len(json.loads((tokenizer / "vocab.json").read_text(encoding="utf-8")))
    sd_helpers.write_single_file(checkpoints / "sd15.safetensors", sd_helpers.narrow_sd15(size), dtype=torch.float16)
    sd_helpers.write_single_file(checkpoints / "sdxl.safetensors", sd_helpers.narrow_sdxl(size))
    sd_helpers.write_folder(checkpoints / "folders" / "sd15")
    sd_helpers.write_folder(checkpoints / "folders" / "sdxl", is_xl=True, prediction_type="v_prediction")
    (checkpoints / "old.ckpt").write_bytes(pickle.dumps({}))
    return folder


@pytest.fixture(autouse=True)
def only_these(weights, monkeypatch):
    monkeypatch.setattr(paths, "weights_dirs", lambda: [weights])
    monkeypatch.delenv("COMFYUI_PATH", raising=False)


def draw(name: str, width: int = 32, height: int = 48) -> torch.Tensor:
    """What stock nodes draw with a checkpoint."""

    def run(node: str, **inputs):
        made = STOCK_NODES[node]()
        return getattr(made, made.FUNCTION)(**inputs)

    model, clip, vae = run("CheckpointLoaderSimple", ckpt_name=name)
    (positive,) = run("CLIPTextEncode", clip=clip, text="a (red:1.3) fruit")
    (negative,) = run("CLIPTextEncode", clip=clip, text="")
    (latent,) = run("EmptyLatentImage", width=width, height=height, batch_size=2)
    (drawn,) = run(
        "KSampler", model=model, seed=1, steps=2, cfg=4.0, sampler_name="euler", scheduler="normal", positive=positive, negative=negative,
        latent_image=latent, denoise=1.0,
    )  # fmt: skip
    return run("VAEDecode", vae=vae, samples=drawn)[0]


def test_files_and_folders_are_listed_and_no_part_of_a_folder():
    assert list_checkpoints() == ["folders/sd15", "folders/sdxl", "old.ckpt", "sd15.safetensors", "sdxl.safetensors"]
    choices = STOCK_NODES["CheckpointLoaderSimple"].INPUT_TYPES()["required"]["ckpt_name"][0]
    assert choices == list_checkpoints()


def test_a_comfyui_lends_its_checkpoints(tmp_path, weights, monkeypatch):
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    shutil.copy(weights / "checkpoints" / "sd15.safetensors", tmp_path / "models" / "checkpoints" / "mine.safetensors")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert "mine.safetensors" in list_checkpoints() and resolve_checkpoint("mine.safetensors").is_relative_to(tmp_path)


def test_names_that_lead_elsewhere_or_nowhere_are_refused(weights):
    for name in ("../sd15.safetensors", str(weights / "checkpoints" / "sd15.safetensors"), "folders/../sd15.safetensors"):
        with pytest.raises(InputError, match="relative name"):
            resolve_checkpoint(name)
    with pytest.raises(BundleError, match=r"near it there is sd15\.safetensors"):
        resolve_checkpoint("sd14.safetensors")
    with pytest.raises(BundleError, match="old.ckpt is a pickle, which can run code"):
        resolve_checkpoint("old.ckpt")


@pytest.mark.parametrize("name", ["sd15.safetensors", "sdxl.safetensors", "folders/sd15", "folders/sdxl"])
def test_stock_nodes_draw_with_a_checkpoint(name):
    image = draw(name)
    assert image.shape == (2, 48, 32, 3) and image.isfinite().all() and image.std() > 0.01
    assert torch.equal(image, draw(name))


def test_what_a_single_file_is_comes_from_its_tensors(weights):
    model, clip, vae = load_checkpoint(weights / "checkpoints" / "sd15.safetensors", CPU)
    assert set(clip.encoders) == {"l"} and vae.downscale_ratio == 8
    assert (model.get_model_object("latent_format").scale, model.get_model_object("model_sampling").prediction) == (0.18215, "eps")
    model, clip, _ = load_checkpoint(weights / "checkpoints" / "sdxl.safetensors", CPU)
    assert list(clip.encoders) == ["l", "g"] and model.model.pooled_width == 128
    assert model.get_model_object("latent_format").scale == 0.13025


def test_what_a_folder_is_comes_from_its_configs(weights):
    model, _, vae = load_checkpoint(weights / "checkpoints" / "folders" / "sdxl", CPU)
    assert model.get_model_object("model_sampling").prediction == "v" and model.model.pooled_width == 64
    assert vae.latent_format.scale == 0.13


def test_sdxl_is_told_sizes_and_the_pooled_text(weights):
    model, clip, _ = load_checkpoint(weights / "checkpoints" / "folders" / "sdxl", CPU)
    x = torch.zeros(1, 4, 4, 6)
    ((_, details),) = clip.encode_from_tokens_scheduled(clip.tokenize("a red fruit"))
    pooled = details["pooled_output"]
    assert torch.equal(model.model.encode_adm(details, x), torch.cat([pooled, torch.tensor([[32.0, 48, 0, 0, 32, 48]])], 1))
    cropped = {**details, "width": 512, "height": 256, "crop_w": 8, "target_width": 100}
    assert model.model.encode_adm(cropped, x)[0, -6:].tolist() == [256, 512, 0, 8, 256, 100]
    with pytest.raises(InputError, match="pooled text state of 64 features, the conditioning carries none"):
        model.model.encode_adm({}, x)


def changed(weights: Path, tmp_path: Path, keep, **more: torch.Tensor) -> Path:
    tensors = load_foreign(weights / "checkpoints" / "sd15.safetensors")
    path = tmp_path / "changed.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if keep(name)} | more, str(path))
    if not (tmp_path / "tokenizer").exists():
        shutil.copytree(weights / "checkpoints" / "tokenizer", tmp_path / "tokenizer")
    return path


@pytest.mark.parametrize(
    ("lacks", "more", "words"),
    [
        ("first_stage_model.", {}, "holds no VAE"),
        ("cond_stage_model.", {}, "no text encoder"),
        ("model.diffusion_model.", {}, "no U-Net"),
        ("model.diffusion_model.out.2.weight", {}, "out.2.weight"),
        ("model.diffusion_model.middle_block.1.proj_out.bias", {}, "do not make a UNet2DConditionModel"),
        ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", {}, "lacks parts of its CLIP"),
        ("nothing", {"cond_stage_model.model.ln_final.weight": torch.ones(2)}, "is SD 2;"),
        ("nothing", {"ztsnr": torch.ones(1)}, "another noise schedule"),
    ],
)
def test_what_a_single_file_lacks_is_named(weights, tmp_path, lacks, more, words):
    path = changed(weights, tmp_path, lambda name: not name.startswith(lacks), **more)
    with pytest.raises(BundleError, match=words):
        load_checkpoint(path, CPU)


def test_v_prediction_is_told_by_its_mark(weights, tmp_path):
    model, _, _ = load_checkpoint(changed(weights, tmp_path, lambda name: True, v_pred=torch.ones(1)), CPU)
    assert model.get_model_object("model_sampling").prediction == "v"


def test_an_inpainting_model_is_refused(weights, tmp_path):
    name = "model.diffusion_model.input_blocks.0.0.weight"
    path = changed(weights, tmp_path, lambda one: one != name, **{name: torch.zeros(32, 9, 3, 3)})
    with pytest.raises(BundleError, match="takes 9 channels"):
        load_checkpoint(path, CPU)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "flow"),
        ("unet/config.json", {"_class_name": "FluxTransformer2DModel"}, "is a FluxTransformer2DModel"),
        ("unet/config.json", {"layers_per_block": 2}, "do not make a UNet2DConditionModel"),
        ("unet/config.json", {"in_channels": 9}, "do not make a UNet2DConditionModel"),
        ("vae/config.json", {"latents_mean": [0.0] * 4}, "mean and deviation"),
    ],
)
def test_what_a_folder_may_not_be_is_named(weights, tmp_path, file, change, words):
    folder = tmp_path / "copy"
    shutil.copytree(weights / "checkpoints" / "folders" / "sd15", folder)
    config = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(BundleError, match=words):
        load_checkpoint(folder, CPU)


def test_a_folder_with_pickles_or_without_a_part_is_refused(weights, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(weights / "checkpoints" / "folders" / "sd15", folder)
    stored = folder / "unet" / "diffusion_pytorch_model.safetensors"
    stored.rename(stored.with_suffix(".bin"))
    with pytest.raises(BundleError, match="only a pickle"):
        load_checkpoint(folder, CPU)
    shutil.rmtree(folder / "vae")
    stored.with_suffix(".bin").rename(stored)
    with pytest.raises(BundleError, match=r"copy/vae/config\.json cannot be read"):
        load_checkpoint(folder, CPU)


def test_a_folder_in_several_files_or_in_half_precision(weights, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(weights / "checkpoints" / "folders" / "sd15", folder)
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = sorted(load_foreign(whole).items())
    whole.unlink()
    for number, part in enumerate((tensors[:50], tensors[50:]), 1):
        save_file(dict(part), str(folder / "unet" / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"))
    half = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_foreign(half).items()}, str(half.with_suffix(".fp16.safetensors")))
    half.unlink()
    model, _, vae = load_checkpoint(folder, CPU)
    assert next(model.model.diffusion_model.parameters()).dtype == next(vae.first_stage_model.parameters()).dtype == torch.float32


def test_without_a_vocabulary_the_error_says_what_to_do(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "_shipped_merges", lambda package: None)
    path = tmp_path / "alone.safetensors"
    shutil.copy(weights / "checkpoints" / "sd15.safetensors", path)
    with pytest.raises(BundleError, match=r"vocab\.json and merges\.txt .* COMFYUI_PATH .* open_clip_torch"):
        load_checkpoint(path, CPU)


def test_a_tokenizer_larger_than_the_text_encoder_is_refused(weights, tmp_path):
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    path = changed(weights, tmp_path, lambda one: one != name, **{name: torch.zeros(10, 64)})
    with pytest.raises(BundleError, match="the text encoder knows 10"):
        load_checkpoint(path, CPU)


def test_a_list_of_merges_makes_a_tokenizer(tmp_path):
    path = tmp_path / "merges.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("#comment\nr e\nre d</w>\n")
    tokenizer = vocabulary.from_merges(path)
    assert len(tokenizer) == 2 * 256 + 2 + 2
    assert tokenizer("Red ree", add_special_tokens=False)["input_ids"] == [513, 512, 256 + ord("e") - ord("!")]
