"""Train Domain Model on tiny models, under inference mode as ComfyUI runs nodes: it learns, resumes, ends with a LoRA and a workflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rapiddraw.core.bundles.lora_about import read_about
from rapiddraw.core.errors import BundleError, Cancelled, DataError, InputError, TrainingError, WriteError
from rapiddraw.core.graph.execute import execute
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.host import current
from rapiddraw.core.operations import domain_run
from rapiddraw.core.operations.domain_data import BucketOrder, Framing, split
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.progress import set_reporter
from rapiddraw.nodes.registry import registry
from rapiddraw.nodes.train_domain import TrainDomainModel
from rapiddraw.tests.core.train.toy import StopAfter

SETTINGS = {
    "folder": "fruit", "filename": "tuned", "steps": 4, "batch_size": 2, "lr": 1e-2, "rank": 4, "layers": "attention", "size": 64,
    "prompts": "a red fruit", "seed": 0, "alpha": 4.0,
}  # fmt: skip
KINDS = ("unet", "text", "vae")


@pytest.fixture
def parts(tiny_weights, tiny_pack):
    write_dataset("train", 4, 64, tiny_pack / "input" / "fruit")
    return current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))


def run(parts, **changes):
    with torch.inference_mode():
        return TrainDomainModel().execute(*parts, **{**SETTINGS, **changes})["result"]


def denoised(model):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.model.apply_model(x, torch.tensor([2.0]), torch.ones(1, 3, model.model.context_width))


def made(tiny_pack, name="tuned"):
    return tiny_pack / "output" / "loras" / f"{name}.safetensors"


def test_it_learns_and_its_base_is_as_before(parts, tiny_pack):
    before = denoised(parts[0])
    model, clip, report, plot, samples = run(parts, steps=60, weighting="none")
    assert torch.equal(denoised(parts[0]), before) and not torch.allclose(denoised(model), before, atol=1e-3)
    log = [json.loads(line) for line in (tiny_pack / "output/rapiddraw/tuned-run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in log]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert "60 steps on 4 pictures: 4 for train" in report and "rank 4" in report and "saved as tuned.safetensors" in report
    assert plot.shape[-1] == 3 and samples.shape == (1, 128, 64, 3) and clip is parts[1]
    assert len(list((tiny_pack / "output/rapiddraw/tuned-run").glob("samples-*.png"))) == 4
    again, _ = current().surgery.add_lora(parts[0], None, made(tiny_pack), 1.0, 1.0)
    assert torch.equal(denoised(again), denoised(model))


def test_the_same_seed_gives_the_same_file_and_another_one_does_not(parts, tiny_pack):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(parts, filename=name, seed=seed, flip=True)
    first, second, third = (made(tiny_pack, name).read_bytes() for name in "abc")
    assert first == second != third
    assert read_about(made(tiny_pack, "a"))["steps"] == 4


def test_the_largest_seed_draws_its_samples(parts):
    assert run(parts, steps=1, seed=2**64 - 1, prompts="a red fruit\na tall fruit")[4].isfinite().all()


@pytest.mark.parametrize("noise", [0.01, 1e-7])
def test_a_run_on_another_base_is_not_resumed_and_one_on_the_same_is(parts, noise):
    run(parts, steps=1)
    network = current().surgery.rebuild(parts[0], lambda one: None)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.model.diffusion_model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * noise * weight.std())
    if noise < 1e-6:  # as much as other threads change in a base with a LoRA
        run((network, *parts[1:]), steps=1)
        return
    with pytest.raises(TrainingError, match="the model, the pictures or the texts are others. Use"):
        run((network, *parts[1:]), steps=1)


def test_a_cancelled_run_goes_on_when_it_is_queued_again(parts, tiny_pack):
    run(parts, filename="whole")
    set_reporter(lambda _, label, __: StopAfter(2 if label.startswith("train") else 10**9, Cancelled("enough")))
    try:
        with pytest.raises(Cancelled):
            run(parts)
    finally:
        set_reporter(None)
    assert not made(tiny_pack).exists()
    network = current().speed.network_of("model", parts[0])
    assert not any(module._forward_hooks for module in network.modules())
    run(parts)
    assert made(tiny_pack).read_bytes() == made(tiny_pack, "whole").read_bytes()


def test_the_ready_workflow_draws_with_the_lora(parts, tiny_pack):
    graph = {
        "7": {"class_type": "RapidDrawBundleLoader", "inputs": {f"{kind}_name": f"tiny-{kind}.safetensors" for kind in KINDS}},
        "9": {"class_type": "RapidDrawTrainDomainModel", "inputs": {**SETTINGS, "model": ["7", 0], "clip": ["7", 1], "vae": ["7", 2]}},
    }
    result = execute(graph, registry())
    (report,) = result.outputs["9"]["text"]
    path = tiny_pack / "output" / "workflows" / "tuned.json"
    assert "tuned.json in your workflows" in report and path.is_file()
    drawn = execute(read_graph(path), registry())
    (name,) = (image["filename"] for ui in drawn.outputs.values() for image in ui["images"])
    with Image.open(tiny_pack / "output" / name) as picture:
        assert picture.size == (64, 64)


def test_a_workflow_of_the_user_stays_and_none_is_no_failure(parts, tiny_pack):
    mine = tiny_pack / "output" / "workflows" / "tuned.json"
    mine.parent.mkdir(parents=True)
    mine.write_text('{"nodes": ["mine"]}', encoding="utf-8")
    inputs = {name: ["7", slot] for slot, name in enumerate(("model", "clip", "vae"))}
    graph = {
        "7": {"class_type": "RapidDrawBundleLoader", "inputs": {f"{kind}_name": f"tiny-{kind}.safetensors" for kind in KINDS}},
        "9": {"class_type": "RapidDrawTrainDomainModel", "inputs": {**SETTINGS, **inputs}},
    }
    for _ in range(2):
        assert "tuned 2.json in your workflows" in run(parts, steps=1, prompt=graph, unique_id="9")[2]
    assert mine.read_text(encoding="utf-8") == '{"nodes": ["mine"]}'
    assert sorted(path.name for path in mine.parent.iterdir()) == ["tuned 2.json", "tuned.json"]
    assert "no workflow was written (the graph has no node 5" in run(parts, steps=1, prompt=graph, unique_id="5")[2]


def pictures(folder: Path, *names: str, size=(40, 32), mode="RGB"):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        bands = len(Image.new(mode, (1, 1)).getbands())
        Image.new(mode, size, 40 * number if bands == 1 else (40 * number,) * bands).save(folder / name)


def test_mixed_pictures_are_trained_on_in_their_shapes(parts, tiny_pack):
    folder = tiny_pack / "input" / "mixed"
    pictures(folder, "apple_tree/a.png", "apple_tree/b.png", "apple_tree/c.png")
    pictures(folder, "pear/d.png", "pear/e.png", size=(32, 60))
    pictures(folder, "pear/f.jpg", mode="CMYK")
    pictures(folder, "pear/g.png", mode="I;16")
    report = run(parts, folder="mixed", batch_size=3)[2]
    assert "7 of 7 pictures have captions by the template" in report and "7 of 7 pictures are smaller" in report
    assert report.count("(5)") == report.count("(2)") == 1
    assert "sizes: 64x64 (7)" in run(parts, folder="mixed", filename="square", buckets=False)[2]


@pytest.mark.parametrize(
    ("make", "changes", "error", "words"),
    [
        (lambda f: pictures(f, "a.png"), {"subject": "x"}, DataError, "holds 1 picture"),
        (lambda f: pictures(f, "a.png", "b.png", "c.png"), {}, DataError, "3 of 3 pictures have no caption"),
        (lambda f: pictures(f, "a.png", "b.png", "c.png", size=(1, 1)), {"subject": "x"}, DataError, "1 x 1 pixels"),
        (lambda f: [(f.mkdir(exist_ok=True), (f / f"{n}.png").write_bytes(b"no")) for n in "abc"], {"subject": "x"}, DataError, "readable"),
        (lambda f: f.mkdir(), {}, DataError, "no images"),
        (lambda f: None, {}, DataError, "no such folder"),
        (lambda f: pictures(f, "a.png", "b.png", "c.png"), {"subject": "x", "template": "a photo"}, InputError, "no {object}"),
        (lambda f: None, {"folder": "../out"}, InputError, "plain relative name"),
        (lambda f: None, {"folder": "/etc"}, InputError, "inside the input folder"),
        (lambda f: None, {"filename": "../x"}, InputError, "plain relative name"),
        (lambda f: None, {"layers": "none"}, InputError, "layers="),
        (lambda f: None, {"rank": 0}, InputError, "rank=0"),
        (lambda f: None, {"steps": 0}, InputError, "steps"),
        (lambda f: None, {"lr": float("nan")}, InputError, "lr"),
    ],
)
def test_bad_data_and_settings_are_one_clear_line_before_any_work(parts, tiny_pack, monkeypatch, make, changes, error, words):
    monkeypatch.setattr(domain_run, "encode_pictures", lambda *_: pytest.fail("encoded first"))
    make(tiny_pack / "input" / "bad")
    with pytest.raises(error, match=words) as raised:
        run(parts, **{"folder": "bad", **changes})
    assert "\n" not in str(raised.value)


def test_parts_that_do_not_belong_together_are_refused(parts, tiny_weights, tmp_path):
    from rapiddraw.core.bundles.format import LatentSpace
    from rapiddraw.tests.helpers import write_text, write_vae

    model, clip, vae = parts
    other = current().vae.load(write_vae(tmp_path / "vae.safetensors", latent=LatentSpace(8, 8), latent_channels=8))
    with pytest.raises(InputError, match="latents of 8 channels and the model takes 4"):
        run((model, clip, other))
    wide = current().clip.load(write_text(tmp_path / "text.safetensors", width=64))
    with pytest.raises(InputError, match="tokens of 64 features and the model reads 32"):
        run((model, wide, vae))


def test_no_memory_and_places_that_cannot_be_written_are_named(parts, tiny_pack, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("rapiddraw.core.operations.domain.free_memory", lambda _: 1000)
        with pytest.raises(InputError, match="GB are free on cpu"):
            run(parts)
    with monkeypatch.context() as patch:

        def full(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        patch.setattr(domain_run, "encode_pictures", full)
        with pytest.raises(InputError, match="memory ran out at batch_size=2, size=64"):
            run(parts)
    made(tiny_pack).parent.mkdir(parents=True)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, made(tiny_pack))
    with pytest.raises(BundleError, match="another program"):
        run(parts)
    made(tiny_pack).unlink()
    made(tiny_pack).parent.rmdir()
    made(tiny_pack).parent.write_text("in the way")
    with pytest.raises(WriteError, match="cannot write"):
        run(parts)


def test_gradient_checkpointing_gives_the_same_file(parts, tiny_pack):
    run(parts, filename="plain", checkpointing="off", steps=2)
    run(parts, filename="again", checkpointing="on", steps=2)
    first, second = (current().surgery.add_lora(parts[0], None, made(tiny_pack, name), 1.0, 0.0)[0] for name in ("plain", "again"))
    assert torch.allclose(denoised(first), denoised(second), atol=1e-4)


def test_a_tenth_is_held_out_and_measured(parts, tiny_pack):
    write_dataset("train", 12, 64, tiny_pack / "input" / "many")
    report = run(parts, folder="many", steps=2)[2]
    assert "1 for test, 10 for train, 1 for validation" in report and "by the base" in report
    assert set(read_about(made(tiny_pack))["held_out"]) == {"validation", "test"}
    parts_of = split(100, 0)
    assert [len(parts_of[part]) for part in ("train", "validation", "test")] == [80, 10, 10]
    assert sorted(i for members in parts_of.values() for i in members) == list(range(100)) and split(100, 1) != parts_of


def test_batches_hold_one_size_and_every_picture_once_an_epoch():
    order = BucketOrder([[0, 1, 2, 3], [], [4, 5]], 2, 7)
    first = [order.indices(i) for i in range(order.batches)]
    assert sorted(i for batch in first for i in batch) == list(range(6)) and order.indices(0) == first[0]
    assert all(max(batch) < 4 or min(batch) > 3 for batch in first)
    assert len(BucketOrder([[0]], 5, 0).indices(3)) == 5


@pytest.mark.parametrize("size", [32, 64, 320, 512, 1024])
def test_sizes_are_near_the_area_and_in_the_ratio(size):
    sizes = Framing(size).sizes()
    assert sizes[0][0] == sizes[0][1] <= size and len(set(sizes)) == len(sizes) > 1
    assert all(0.5 <= h / w <= 2 and h * w <= sizes[0][0] ** 2 and h % 8 == w % 8 == 0 for h, w in sizes)
