"""Trainings that would go on from a run on another base, or with other pictures, refuse before anything is encoded or trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rapiddraw.core import paths
from rapiddraw.core.errors import TrainingError
from rapiddraw.core.host import current
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.nodes.distill import DistillUNet
from rapiddraw.nodes.few_step import DistillFewSteps
from rapiddraw.nodes.slim_train import PruneVAEDecoder, SlimUNet
from rapiddraw.nodes.train_domain import TrainDomainModel
from rapiddraw.nodes.train_pair import TrainTimeDecoupledPair
from rapiddraw.nodes.train_upscaler import TrainUpscaler
from rapiddraw.nodes.upscale import ESRGANLoader
from rapiddraw.tests.nodes.test_distill_node import SETTINGS as DISTILL
from rapiddraw.tests.nodes.test_few_step_nodes import SETTINGS as FEW_STEP
from rapiddraw.tests.nodes.test_slim_nodes import PRUNED
from rapiddraw.tests.nodes.test_slim_unet_node import GIVEN as SLIM
from rapiddraw.tests.nodes.test_train_domain_node import SETTINGS as DOMAIN
from rapiddraw.tests.nodes.test_train_pair_node import SETTINGS as PAIR
from rapiddraw.tests.nodes.test_train_upscaler_node import SETTINGS as UPSCALER

OTHERS = "the model, the pictures or the texts are others"
Parts = tuple[Any, Any, Any]
TRAININGS: dict[str, Callable[[Parts], Any]] = {
    "domain": lambda parts: TrainDomainModel().execute(*parts, **{**DOMAIN, "steps": 1}),
    "pair": lambda parts: TrainTimeDecoupledPair().execute(*parts, **{**PAIR, "steps": 1}),
    "distill": lambda parts: DistillUNet().execute(*parts, **{**DISTILL, "steps": 1}),
    "few steps": lambda parts: DistillFewSteps().execute(*parts[:2], vae=parts[2], **{**FEW_STEP, "steps": 1}),
    "few steps on pictures": lambda parts: DistillFewSteps().execute(
        *parts[:2], vae=parts[2], **{**FEW_STEP, "steps": 1, "folder": "fruit"}
    ),
    "slim": lambda parts: SlimUNet().execute(*parts, **{**SLIM, "folder": "fruit", "steps": 1}),
    "slim, nothing removed": lambda parts: SlimUNet().execute(*parts, **{**SLIM, "folder": "fruit", "steps": 1, "latency": 1.0}),
    "slim at once": lambda parts: SlimUNet().execute(*parts, **{**SLIM, "folder": "fruit", "steps": 1, "robust_steps": 0}),
}


@pytest.fixture
def parts(tiny_weights: Path, tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr("rapiddraw.core.slim.rating.cache_dir", lambda: tiny_pack)
    write_dataset("train", 4, 64, tiny_pack / "input" / "fruit")
    return current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))


def another(model: Any) -> Any:
    """The model with other weights."""
    made = current().surgery.rebuild(model, lambda _: None)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.model.diffusion_model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.01 * weight.std(correction=0))
    return made


def forbid(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let nothing be trained. The returned list gets the number of pictures of each call of a VAE's encoder."""
    from rapiddraw.core.host.embedded import training, vae

    encoded: list[int] = []
    plain = vae.encode

    def counted(one: Any, pictures: torch.Tensor) -> Any:
        encoded.append(len(pictures))
        return plain(one, pictures)

    monkeypatch.setattr(vae, "encode", counted)
    monkeypatch.setattr(training, "denoiser", lambda *_, **__: pytest.fail("the model was loaded for training"))
    return encoded


@pytest.mark.parametrize("name", TRAININGS)
def test_another_base_is_refused_before_any_work(parts: Parts, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        TRAININGS[name](parts)
        encoded = forbid(monkeypatch)
        with pytest.raises(TrainingError, match=OTHERS):
            TRAININGS[name]((another(parts[0]), *parts[1:]))
    assert sum(encoded) <= (name == "few steps on pictures"), "one picture tells the size of the latents"


@pytest.mark.parametrize("name", TRAININGS)
def test_the_same_base_goes_on(parts: Parts, name: str) -> None:
    with torch.inference_mode():
        TRAININGS[name](parts)
        TRAININGS[name](parts)


@pytest.mark.parametrize("name", ["domain", "distill", "slim", "few steps on pictures"])
def test_other_pictures_are_refused_too(parts: Parts, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        TRAININGS[name](parts)
        picture = next(paths.input_dir().rglob("*.png"))
        Image.fromarray(255 - np.asarray(Image.open(picture).convert("RGB"))).save(picture)
        encoded = forbid(monkeypatch)
        with pytest.raises(TrainingError, match=OTHERS):
            TRAININGS[name](parts)
    assert sum(encoded) <= (name == "few steps on pictures")


@pytest.mark.parametrize(
    ("node", "given", "changes", "words"),
    [
        (TrainDomainModel, DOMAIN, {"lr": 0.5}, "lr was"),
        (DistillUNet, DISTILL, {"value": 0.5}, "value was"),
        (DistillFewSteps, FEW_STEP, {"guidance": 2.0}, "guidance was"),
        (SlimUNet, {**SLIM, "folder": "fruit"}, {"seed": 4}, "seed was"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_before_a_text_is_encoded(
    parts: Parts, node: Any, given: dict[str, Any], changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        node().execute(*parts[:2], vae=parts[2], **{**given, "steps": 1})
        encoded = forbid(monkeypatch)
        monkeypatch.setattr("rapiddraw.core.host.embedded.clip.encode", lambda *_: pytest.fail("a text was encoded"))
        with pytest.raises(TrainingError, match=words):
            node().execute(*parts[:2], vae=parts[2], **{**given, "steps": 1, **changes})
    assert not encoded


def test_another_upscaler_is_refused_before_pictures_are_cut(tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rapiddraw.tests.helpers import write_image

    tower = write_image(tiny_pack / "tower.safetensors")
    monkeypatch.setattr("rapiddraw.core.scoring.perceptual.resolve_bundle", lambda name, kind: tower)
    folder = paths.input_dir() / "mine"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    model = ESRGANLoader().execute("tiny-esrgan.safetensors")[0]
    given: dict[str, Any] = {**UPSCALER, "steps": 1}
    TrainUpscaler().execute(model, "mine", "mine", **given)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.mul_(1.1)
    monkeypatch.setattr("rapiddraw.core.operations.train_upscaler.load_pixels", lambda *_: pytest.fail("a picture was read"))
    with pytest.raises(TrainingError, match=OTHERS):
        TrainUpscaler().execute(model, "mine", "mine", **given)
    with pytest.raises(TrainingError, match="lr was"):
        TrainUpscaler().execute(model, "mine", "mine", **{**given, "lr": 0.5})


@pytest.mark.parametrize("source", ["pictures", "drawn"])
def test_another_vae_is_refused_before_its_pictures_are_encoded(parts: Parts, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rapiddraw.tests.helpers import write_vae

    given = {**PRUNED, "latents_from": source, "folder": "fruit", "steps": 1}
    files = [write_vae(paths.input_dir() / f"{n}.safetensors", seed=n, block_out_channels=[64, 64, 64, 64]) for n in (1, 2)]
    first, second = (current().vae.load(path) for path in files)
    PruneVAEDecoder().execute(first, **given)
    PruneVAEDecoder().execute(first, **given)
    encoded = forbid(monkeypatch)
    with pytest.raises(TrainingError, match=OTHERS):
        PruneVAEDecoder().execute(second, **given)
    assert not encoded
