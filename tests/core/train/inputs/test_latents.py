"""Kept latents are never believed: damaged, stale or planted ones are encoded again, and what comes out is always the same."""

from __future__ import annotations

import os
import shutil
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.errors import BundleError, DataError, InputError, TrainingError
from rapiddraw.core.train.inputs import latents as module
from rapiddraw.core.train.inputs.buckets import bucket_latents
from rapiddraw.core.train.inputs.encoder import LatentEncoder
from rapiddraw.core.train.inputs.latent_cache import picture_key, read_rows, write_rows
from rapiddraw.core.train.inputs.latents import folder_latents
from safetensors.numpy import load_file, save_file

CPU = torch.device("cpu")
COUNT = 5


class Encoder:
    """Stands in for a VAE: 8 x 8 latents of three channels, quick to make, another for every picture; counts what it encodes."""

    encoded = 0

    def __init__(self, path, device):
        self.space = None

    def encode(self, pictures):
        type(self).encoded += len(pictures)
        return torch.nn.functional.adaptive_avg_pool2d(pictures, 8).half()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LatentEncoder", Encoder)
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        draw(tmp_path / f"{i}.png", rng)
    (tmp_path / "vae.safetensors").write_bytes(b"a VAE")
    return tmp_path


def draw(path, rng):
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path, compress_level=0)  # all of one size in bytes


def encode(folder, **more):
    """(latents, how many pictures were encoded)."""
    Encoder.encoded = 0
    found = folder_latents(ImageFolder(folder, size=32, captions=False), folder / "vae.safetensors", CPU, 2, **more)[0]
    return found, Encoder.encoded


def cache_of(folder):
    (path,) = folder.glob(".latents-*.safetensors")
    return path


def test_each_picture_is_encoded_once(folder):
    first, encoded = encode(folder)
    assert (encoded, first.shape, first.dtype) == (COUNT, (COUNT, 3, 8, 8), torch.float16)
    again, encoded = encode(folder)
    assert encoded == 0 and torch.equal(first, again)


def test_another_picture_of_the_same_name_size_and_time_is_encoded(folder):
    first, _ = encode(folder)
    path = folder / "2.png"
    before = path.stat()
    draw(path, np.random.default_rng(9))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    second, encoded = encode(folder)
    assert encoded == 2  # its batch
    assert [i for i in range(COUNT) if not torch.equal(first[i], second[i])] == [2]
    assert encode(folder)[1] == 0


def test_pictures_that_come_go_and_change_places_keep_their_own_latents(folder):
    first, _ = encode(folder)
    (folder / "0.png").unlink()
    (folder / "1.png").rename(folder / "9.png")
    second, encoded = encode(folder)
    assert encoded == 0 and torch.equal(second, first[[2, 3, 4, 1]])


def test_another_vae_and_another_use_of_the_pictures_are_encoded(folder):
    first, _ = encode(folder)
    low, encoded = encode(folder, low=[1])
    assert encoded == COUNT and [i for i in range(COUNT) if not torch.equal(first[i], low[i])] == [1]
    (folder / "vae.safetensors").write_bytes(b"another VAE")
    assert encode(folder)[1] == COUNT


def rewritten(how):
    """A way to spoil a cache: its tensors as `how` changes them."""

    def spoil(path):
        save_file(how(load_file(path)), str(path))

    return spoil


def nan(tensors):
    tensors["latents"][1, 0, 0, 0] = np.nan
    return tensors


SPOILS = {
    "nan": rewritten(nan),
    "shifted": rewritten(lambda t: {**t, "latents": np.roll(t["latents"], 1, axis=0)}),
    "another shape": rewritten(lambda t: {**t, "latents": np.ascontiguousarray(t["latents"].transpose(0, 2, 1, 3))}),
    "a longer side": rewritten(lambda t: {**t, "latents": t["latents"].reshape(COUNT, 3, 4, 16)}),
    "another type": rewritten(lambda t: {**t, "latents": t["latents"].astype(np.float32)}),
    "fewer rows": rewritten(lambda t: {**t, "latents": np.ascontiguousarray(t["latents"][:2])}),
    "no checks": rewritten(lambda t: {key: value for key, value in t.items() if key != "checks"}),
    "the first format": rewritten(lambda t: {"latents": t["latents"]}),
    "garbage": lambda path: path.write_bytes(os.urandom(4000)),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "a giant header": lambda path: path.write_bytes(struct.pack("<Q", 2**62) + b"{}"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a broken link": lambda path: (path.unlink(), path.symlink_to(path.parent / "nowhere")),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
def test_a_damaged_cache_is_encoded_again(folder, spoil):
    first, _ = encode(folder)
    spoil(cache_of(folder))
    again, encoded = encode(folder)
    assert encoded > 0 and torch.equal(first, again)
    if cache_of(folder).is_file():
        assert encode(folder)[1] == 0


def test_a_cache_that_claims_endless_rows_is_not_read(folder):
    encode(folder)
    rows = 20_000
    planted = {
        "latents": np.zeros((rows, 3, 8, 8), np.float16),
        "keys": np.zeros((rows, 32), np.uint8),
        "checks": np.zeros((rows, 32), np.uint8),
    }
    save_file(planted, str(cache_of(folder)))
    assert read_rows(cache_of(folder), [bytes(32)]) == {} and encode(folder)[1] == COUNT


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2**16), value=st.integers(1, 255), cut=st.integers(0, 2**16) | st.none())
def test_no_changed_byte_changes_the_latents(folder, place, value, cut):
    kept = folder / "kept"  # not a cache's name
    if not kept.exists():
        encode(folder)
        shutil.copy(cache_of(folder), kept)
    right = encode_fresh(folder)
    spoiled = bytearray(kept.read_bytes())
    spoiled[place % len(spoiled)] ^= value
    cache_of(folder).write_bytes(spoiled if cut is None else spoiled[: cut % len(spoiled)])
    assert torch.equal(encode(folder)[0], right)


def encode_fresh(folder):
    images = ImageFolder(folder, size=32, captions=False)
    return torch.cat([Encoder(None, None).encode(torch.stack([images.image(i)])) for i in range(COUNT)])


def test_rows_come_back_under_their_keys_alone(tmp_path):
    rows = {bytes([i]) * 32: torch.randn(2, 3, 4).half() for i in range(3)}
    assert write_rows(tmp_path / "c.safetensors", rows)
    found = read_rows(tmp_path / "c.safetensors", [bytes([1]) * 32, bytes([7]) * 32])
    assert found.keys() == {bytes([1]) * 32} and torch.equal(found[bytes([1]) * 32], rows[bytes([1]) * 32])
    assert read_rows(tmp_path / "none.safetensors", list(rows)) == {}


def test_a_folder_that_cannot_be_written_is_trained_on_all_the_same(folder, monkeypatch):
    monkeypatch.setattr(
        "rapiddraw.core.train.inputs.latent_cache.replacing", lambda path: (_ for _ in ()).throw(PermissionError("read-only"))
    )
    assert encode(folder)[1] == encode(folder)[1] == COUNT


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        picture_key(tmp_path / "gone.png", "")


def test_a_vae_that_cannot_be_used_is_named(tmp_path, tiny_weights):
    with pytest.raises(BundleError, match="no such file"):
        LatentEncoder(tmp_path / "gone.safetensors", CPU)
    with pytest.raises(BundleError, match="of kind 'unet'"):
        LatentEncoder(tiny_weights / "tiny-unet.safetensors", CPU)
    nameless = save_bundle(tmp_path / "nameless.safetensors", {"x": torch.zeros(1)}, BundleInfo("vae"))
    with pytest.raises(TrainingError, match="does not say what latent space"):
        LatentEncoder(nameless, CPU)


def test_latents_that_are_not_finite_are_refused(tiny_weights):
    encoder = LatentEncoder(tiny_weights / "tiny-vae.safetensors", CPU)
    assert encoder.encode(torch.zeros(1, 3, 32, 32)).dtype == torch.float16
    with pytest.raises(TrainingError, match="NaN or infinite"):
        encoder.encode(torch.full((1, 3, 32, 32), float("nan")))


def test_buckets_that_the_factor_does_not_divide_are_refused(tiny_weights, folder):
    encoder = LatentEncoder(tiny_weights / "tiny-vae.safetensors", CPU)
    with pytest.raises(InputError, match=r"30 x 32 pixels: expected multiples of"):
        bucket_latents(ImageFolder(folder, captions=False), encoder, [(32, 30)])
