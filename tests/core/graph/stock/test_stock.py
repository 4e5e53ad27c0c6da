"""The stock nodes keep ComfyUI's ids, inputs and semantics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core.errors import InputError
from rapiddraw.core.graph.stock.image import resize_image
from rapiddraw.core.graph.stock.image_files import read_image, save_path
from rapiddraw.core.graph.stock.registry import STOCK_DISPLAY_NAMES, STOCK_NODES

# Inputs in order, as GET /object_info of ComfyUI 0.18 lists them: widget values are stored by position.
INPUTS = {
    "CheckpointLoaderSimple": "ckpt_name",
    "CLIPSetLastLayer": "clip stop_at_clip_layer",
    "LoraLoader": "model clip lora_name strength_model strength_clip",
    "LoraLoaderModelOnly": "model lora_name strength_model",
    "CLIPTextEncode": "text clip",
    "EmptyLatentImage": "width height batch_size",
    "SetLatentNoiseMask": "samples mask",
    "VAEDecode": "samples vae",
    "VAEEncode": "pixels vae",
    "PreviewAny": "source",
    "KSampler": "model seed steps cfg sampler_name scheduler positive negative latent_image denoise",
    "KSamplerAdvanced": (
        "model add_noise noise_seed steps cfg sampler_name scheduler positive negative latent_image start_at_step end_at_step "
        "return_with_leftover_noise"
    ),
    "RandomNoise": "noise_seed",
    "DisableNoise": "",
    "CFGGuider": "model positive negative cfg",
    "BasicGuider": "model conditioning",
    "KSamplerSelect": "sampler_name",
    "BasicScheduler": "model scheduler steps denoise",
    "KarrasScheduler": "steps sigma_max sigma_min rho",
    "SplitSigmas": "sigmas step",
    "SplitSigmasDenoise": "sigmas denoise",
    "AddNoise": "model noise sigmas latent_image",
    "LatentUpscaleBy": "samples upscale_method scale_by",
    "SamplerCustomAdvanced": "noise guider sampler sigmas latent_image",
    "ControlNetApplyAdvanced": "positive negative control_net image strength start_percent end_percent vae",
    "EmptyImage": "width height batch_size color",
    "ImageScale": "image upscale_method width height crop",
    "ImageBatch": "image1 image2",
    "ImageStitch": "image1 direction match_image_size spacing_width spacing_color image2",
    "UpscaleModelLoader": "model_name",
    "ImageUpscaleWithModel": "upscale_model image",
    "SaveImage": "images filename_prefix",
    "PreviewImage": "images",
    "LoadImage": "image",
}


def run(node_id: str, **inputs):
    node = STOCK_NODES[node_id]
    return getattr(node(), node.FUNCTION)(**inputs)


def image(batch: int = 1, height: int = 6, width: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(batch + height))


def test_ids_and_inputs_are_comfyuis(tiny_pack: Path) -> None:
    found = {}
    for name, node in STOCK_NODES.items():
        types = node.INPUT_TYPES()
        found[name] = " ".join([*types["required"], *types.get("optional", {})])
        for options in [*types["required"].values(), *types.get("optional", {}).values()]:
            assert options[1]["tooltip"], f"{name} has an input without a tooltip"
        assert isinstance(node.RETURN_TYPES, tuple) and callable(getattr(node, node.FUNCTION)) and node.CATEGORY and node.DESCRIPTION
    assert found == INPUTS
    assert set(STOCK_DISPLAY_NAMES) == set(INPUTS)


def test_importing_the_stock_nodes_imports_nothing_heavy() -> None:
    heavy = ("torch", "diffusers", "transformers", "PIL")
    code = f"import sys, rapiddraw.core.graph.stock.registry; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_empty_latent_is_an_eighth_of_the_picture() -> None:
    (latent,) = run("EmptyLatentImage", width=64, height=48, batch_size=3)
    assert latent["samples"].shape == (3, 4, 6, 8) and not latent["samples"].any() and latent["downscale_ratio_spacial"] == 8
    with pytest.raises(InputError, match="batch_size"):
        run("EmptyLatentImage", width=64, height=64, batch_size=10**9)


def test_karras_and_split() -> None:
    (sigmas,) = run("KarrasScheduler", steps=4, sigma_max=10.0, sigma_min=0.1, rho=7.0)
    assert len(sigmas) == 5 and sigmas[-1] == 0 and torch.allclose(sigmas[[0, 3]], torch.tensor([10.0, 0.1]))
    high, low = run("SplitSigmas", sigmas=sigmas, step=2)
    assert torch.equal(high, sigmas[:3]) and torch.equal(low, sigmas[2:])
    with pytest.raises(InputError, match="sigma_min"):
        run("KarrasScheduler", steps=4, sigma_max=1.0, sigma_min=2.0, rho=7.0)


def test_mask_is_set_on_a_copy() -> None:
    latent = {"samples": torch.zeros(1, 4, 4, 4)}
    (masked,) = run("SetLatentNoiseMask", samples=latent, mask=torch.ones(2, 8, 8))
    assert "noise_mask" not in latent and masked["noise_mask"].shape == (2, 1, 8, 8)


def test_saving_counts_on_and_keeps_the_graph(tiny_pack: Path) -> None:
    extra = {"workflow": {"a": "\u679c"}}
    saved = [run("SaveImage", images=image(2), filename_prefix="sub/a %width%", prompt={"1": {}}, extra_pnginfo=extra) for _ in range(2)]
    names = [entry["filename"] for one in saved for entry in one["ui"]["images"]]
    assert names == [f"a 8_0000{i}_.png" for i in (1, 2, 3, 4)]
    assert {entry["subfolder"] for one in saved for entry in one["ui"]["images"]} == {"sub"}
    folder = tiny_pack / "output" / "sub"
    assert sorted(path.name for path in folder.iterdir()) == names  # no temporary file is left
    with Image.open(folder / names[0]) as picture:
        assert json.loads(picture.text["workflow"]) == {"a": "\u679c"}
        first = torch.from_numpy(np.array(picture))
    assert torch.equal(first, (image(2)[0] * 255).to(torch.uint8))


@pytest.mark.parametrize("prefix", ["../out", "/etc/x", "a/../../b", "", "a\0b", "C:/x"])
def test_saving_stays_in_its_folder(tiny_pack: Path, prefix: str) -> None:
    with pytest.raises(InputError):
        run("SaveImage", images=image(), filename_prefix=prefix)
    assert not list((tiny_pack / "output").iterdir())


def test_a_symlink_out_of_the_output_folder_is_refused(tiny_pack: Path) -> None:
    (tiny_pack / "elsewhere").mkdir()
    (tiny_pack / "output" / "link").symlink_to(tiny_pack / "elsewhere")
    with pytest.raises(InputError):
        run("SaveImage", images=image(), filename_prefix="link/x")


def test_a_failed_save_leaves_nothing(tiny_pack: Path) -> None:
    with pytest.raises(TypeError):
        run("SaveImage", images=image(), prompt={"1": object()})
    assert not list((tiny_pack / "output").iterdir())


def test_the_counter_looks_only_at_its_own_prefix(tmp_path: Path) -> None:
    for name in ("fruit_00007_.png", "fruitcake_00099_.png", "fruit_x_.png", "fruit_00003_.txt"):
        (tmp_path / name).touch()
    assert save_path("fruit", tmp_path, 1, 1) == (tmp_path, "fruit", 8)


def test_previews_go_to_the_temp_folder(tiny_pack: Path) -> None:
    (entry,) = run("PreviewImage", images=image())["ui"]["images"]
    assert entry["type"] == "temp" and (tiny_pack / "temp" / entry["filename"]).is_file()


def test_a_saved_picture_loads_back(tiny_pack: Path) -> None:
    (entry,) = run("SaveImage", images=image())["ui"]["images"]
    name = f"{entry['filename']} [output]"
    loader = STOCK_NODES["LoadImage"]
    assert loader.VALIDATE_INPUTS(name) is True and loader.IS_CHANGED(name) == loader.IS_CHANGED(name)
    loaded, mask = run("LoadImage", image=name)
    assert loaded.shape == (1, 6, 8, 3) and (loaded - image()).abs().max() < 1 / 254
    assert mask.shape == (1, 64, 64) and not mask.any()


def test_alpha_becomes_a_mask_and_rotation_is_applied(tiny_pack: Path) -> None:
    Image.new("RGBA", (4, 2), (255, 0, 0, 51)).save(tiny_pack / "input" / "alpha.png")
    pixels, mask = run("LoadImage", image="alpha.png")
    assert pixels.shape == (1, 2, 4, 3) and torch.allclose(mask, torch.full((1, 2, 4), 0.8))
    turned = Image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tiny_pack / "input" / "turned.jpg", exif=exif)
    assert run("LoadImage", image="turned.jpg")[0].shape == (1, 4, 2, 3)
    assert STOCK_NODES["LoadImage"].INPUT_TYPES()["required"]["image"][0] == ["alpha.png", "turned.jpg"]


def test_what_is_no_picture_is_named(tiny_pack: Path) -> None:
    (tiny_pack / "input" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(InputError, match=r"bad\.png"):
        run("LoadImage", image="bad.png")
    assert STOCK_NODES["LoadImage"].VALIDATE_INPUTS("gone.png") == "Invalid image file: gone.png"
    assert "relative" in STOCK_NODES["LoadImage"].VALIDATE_INPUTS("../x.png")


def test_animations_become_batches(tiny_pack: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 128, 255)]
    frames[0].save(tiny_pack / "input" / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(tiny_pack / "input" / "moving.gif")[0].shape == (3, 4, 4, 3)


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
def test_scaling(method: str) -> None:
    assert run("ImageScale", image=image(2), upscale_method=method, width=16, height=12, crop="disabled")[0].shape == (2, 12, 16, 3)
    assert run("ImageScale", image=image(2), upscale_method=method, width=16, height=0, crop="disabled")[0].shape == (2, 12, 16, 3)
    assert resize_image(image(channels=1), 3, 3, method).shape == (1, 3, 3, 1)
    original = image()
    assert run("ImageScale", image=original, upscale_method=method, width=0, height=0, crop="disabled")[0] is original


def test_centre_crop_keeps_the_aspect() -> None:
    wide = torch.zeros(1, 4, 12, 3)
    wide[:, :, 4:8] = 1
    assert bool((resize_image(wide, 4, 4, "bilinear", "center") == 1).all())
    with pytest.raises(InputError, match="16384"):
        resize_image(wide, 20_000, 4, "bilinear")


def test_an_empty_image_has_the_colour_of_its_number() -> None:
    (made,) = run("EmptyImage", width=3, height=2, batch_size=2, color=0xFF8000)
    assert made.shape == (2, 2, 3, 3) and made[1, 1, 2].tolist() == pytest.approx([1, 128 / 255, 0])
    with pytest.raises(InputError, match="at most 4096"):
        run("EmptyImage", width=0, height=2)


def test_batches_take_the_first_ones_size() -> None:
    (both,) = run("ImageBatch", image1=image(2), image2=image(1, 12, 16, 4))
    assert both.shape == (3, 6, 8, 4) and bool((both[:2, ..., 3] == 1).all())


@pytest.mark.parametrize(("direction", "shape"), [("right", (6, 22)), ("left", (6, 22)), ("down", (18, 8)), ("up", (18, 8))])
def test_stitching(direction: str, shape: tuple[int, int]) -> None:
    first, second = image(1), image(2, 12, 12 if direction in ("right", "left") else 8)
    (out,) = run(
        "ImageStitch", image1=first, direction=direction, match_image_size=direction in ("right", "left"), spacing_width=0 if direction in
        ("down", "up") else 7, spacing_color="red", image2=second,
    )  # fmt: skip
    assert out.shape == (2, *shape, 3)
    part = {"right": out[:, :6, :8], "left": out[:, :6, -8:], "down": out[:, :6], "up": out[:, -6:]}[direction]
    assert torch.equal(part, first.repeat(2, 1, 1, 1))
    if direction == "right":
        assert torch.equal(out[0, 0, 8], torch.tensor([1.0, 0.0, 0.0]))


def test_stitching_pads_the_smaller_picture_in_the_middle() -> None:
    (out,) = run(
        "ImageStitch", image1=image(1, 6, 8), direction="right", match_image_size=False, spacing_width=0, spacing_color="black",
        image2=image(1, 2, 2),
    )  # fmt: skip
    assert out.shape == (1, 6, 10, 3) and not out[:, :2, 8:].any() and torch.equal(out[:, 2:4, 8:], image(1, 2, 2))
    alone = image()
    assert run("ImageStitch", image1=alone, direction="up", match_image_size=True, spacing_width=0, spacing_color="white")[0] is alone


def test_upscaling_with_a_model(tiny_pack: Path) -> None:
    (model,) = run("UpscaleModelLoader", model_name="tiny-esrgan.safetensors")
    (out,) = run("ImageUpscaleWithModel", upscale_model=model, image=image(2))
    assert out.shape == (2, 24, 32, 3) and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize(("value", "text"), [("a", "a"), (3, "3"), (None, "None"), ({"a": 1}, '{\n    "a": 1\n}')])
def test_preview_as_text(value: object, text: str) -> None:
    assert run("PreviewAny", source=value) == {"ui": {"text": (text,)}}


PICTURES = Path(__file__).parents[3] / "data" / "pictures"


@pytest.mark.parametrize(
    ("name", "side", "mean"),
    [  # what ComfyUI's own LoadImage gives
        ("compressed_text_over_1_mib.png", 8, 0.0),
        ("text_whole_pixels_cut.png", 8, 0.0),
        ("good_workflow_bad_prompt.png", 8, 0.0),
        ("cut_short.jpg", 64, 0.4948529),
    ],
)
def test_pictures_that_pillow_alone_refuses_give_what_comfyui_gives(name: str, side: int, mean: float) -> None:
    from PIL import ImageFile

    pixels, mask = read_image(PICTURES / name)
    assert pixels.shape == (1, side, side, 3) and mask.shape == (1, 64, 64)
    assert pixels.mean().item() == pytest.approx(mean, abs=0.004)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False, "the setting is Pillow's and is put back"


def bomb_gif(path: Path, frames: int, side: int) -> Path:
    """A GIF of many frames that claims a large size in a few bytes a frame."""
    import struct

    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    path.write_bytes(head + frame * frames + b"\x3b")
    return path


def bomb_png(path: Path, side: int) -> Path:
    """A PNG of one colour: a square of `side` pixels in a few kilobytes."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" * (side // 8 + 1)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(side // 8)) + packer.flush()
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(
    "make",
    [lambda path: bomb_gif(path, 20_000, 4), lambda path: bomb_gif(path, 40, 600), lambda path: bomb_png(path, 12_000)],
    ids=["many frames", "large frames", "one large frame"],
)
def test_pictures_that_unpack_without_end_are_refused(tmp_path: Path, monkeypatch, make) -> None:
    monkeypatch.setattr("rapiddraw.core.graph.stock.image_files.MAX_PIXELS", 2**21)
    with pytest.raises(InputError, match="more than 4096 frames or 2097152 pixels"):
        read_image(make(tmp_path / "bomb.img"))


def test_a_picture_beyond_pillows_own_limit_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bomb\.img"):
        read_image(bomb_png(tmp_path / "bomb.img", 30_000))
