"""Trainers of adapters on random checkpoints of SD 1.5's and SDXL's shape, under inference mode as ComfyUI runs nodes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.errors import BundleError, Cancelled, DataError, InputError
from rapiddraw.core.graph.execute import execute
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.host import current
from rapiddraw.core.host.embedded.checkpoint import load_checkpoint
from rapiddraw.core.operations import domain_run
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.progress import set_reporter
from rapiddraw.nodes.registry import registry
from rapiddraw.tests import helpers, sd_helpers
from rapiddraw.tests.core.train.toy import StopAfter

SETTINGS = {
    "folder": "fruit",
    "filename": "tuned",
    "steps": 3,
    "batch_size": 2,
    "lr": 0.05,
    "size": 64,
    "prompts": "a red fruit",
    "seed": 0,
}
KRONECKER = "RapidDrawTrainKroneckerAdapter"
CONTROL = "RapidDrawTrainControlAdapter"
TOKENS = "RapidDrawTrainImageTokens"
CHANGES = {
    KRONECKER: {"rank": 2, "layers": "all"},
    CONTROL: {"conditions": "edges, sketch", "maps": "drawn from the pictures", "format": "lowrank", "ratio": 0.5},
    TOKENS: {"tokens": 3, "hidden": 16, "reading": 2, "tower_name": "tiny-image.safetensors"},
}
NODES = list(CHANGES)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "checkpoints"
    size = len(json.loads((sd_helpers.write_tokenizer(folder / "tokenizer") / "vocab.json").read_text(encoding="utf-8")))
    sd_helpers.write_single_file(folder / "sd15.safetensors", sd_helpers.narrow_sd15(size))
    sd_helpers.write_single_file(folder / "sdxl.safetensors", sd_helpers.narrow_sdxl(size))
    helpers.write_segmenter(folder.parent / "tiny-segmenter.safetensors")
    helpers.write_image(folder.parent / "tiny-image.safetensors")
    return folder


@pytest.fixture
def pack(tiny_pack, checkpoints, monkeypatch):
    made = tiny_pack / "output" / "rapiddraw"
    monkeypatch.setattr(paths, "weights_dirs", lambda: [checkpoints.parent, *([made] if made.is_dir() else [])])
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    write_dataset("train", 4, 64, tiny_pack / "input" / "fruit", maps=("edges", "segmentation", "sketch"))
    return tiny_pack


@pytest.fixture(params=["sd15", "sdxl"])
def parts(request, checkpoints, pack):
    return load_checkpoint(checkpoints / f"{request.param}.safetensors", torch.device("cpu"))


@pytest.fixture
def sd15(checkpoints, pack):
    return load_checkpoint(checkpoints / "sd15.safetensors", torch.device("cpu"))


def run(node, parts, **changes):
    with torch.inference_mode():
        return registry()[node]().execute(*parts, **{**SETTINGS, **CHANGES[node], **changes})


def made(pack, name="tuned"):
    return pack / "output" / "rapiddraw" / f"{name}.safetensors"


def denoised(model, control=None):
    x, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([2.0])
    inner = model.model
    y = inner.encode_adm({"pooled_output": torch.ones(1, inner.pooled_width)}, x) if inner.pooled_width else None
    given = {"c_crossattn": torch.ones(1, 3, inner.context_width), "y": y}
    return inner.apply_model(x, sigma, **given, control=control and control.get_control(inner, x, sigma, 1, given))


def test_a_kronecker_adapter_is_loaded_by_its_node_and_the_base_is_as_before(parts, pack):
    before = denoised(parts[0])
    model, report, plot, samples = run(KRONECKER, parts)["result"]
    assert torch.equal(denoised(parts[0]), before) and float((denoised(model) - before).abs().max()) > 1e-3
    assert "Kronecker adapter of rank 2 on" in report and "saved as tuned.safetensors in rapiddraw of the output folder" in report
    assert plot.shape[-1] == 3 and samples.shape == (1, 128, 64, 3)
    load = registry()["RapidDrawKroneckerAdapterLoader"]().execute
    assert torch.equal(denoised(load(parts[0], "tuned.safetensors", 1.0)[0]), denoised(model))
    assert load(parts[0], "tuned.safetensors", 0.0)[0] is parts[0]


@pytest.mark.parametrize("form", ["lowrank", "kronecker", "dense"])
def test_a_control_adapter_is_loaded_by_its_node_and_acts(parts, pack, form):
    before = denoised(parts[0])
    net, report, _, samples = run(CONTROL, parts, format=form, rank=2)["result"]
    assert torch.equal(denoised(parts[0]), before) and samples.shape == (1, 128, 64, 3)
    assert f"control adapter ({form}) for edges, sketch" in report and "for Load Control Adapter" in report
    loaded = registry()["RapidDrawControlAdapterLoader"]().execute("tuned.safetensors", "edges")[0]
    edges = torch.zeros(1, 3, 64, 64)
    edges[..., 30] = 1
    drawn = [denoised(parts[0], one.copy().set_cond_hint(edges)) for one in (net, loaded)]
    assert torch.equal(*drawn) and float((drawn[0] - before).abs().max()) > 1e-4


def test_maps_of_the_folder_are_read_and_missing_ones_are_named(sd15, pack):
    with pytest.raises(InputError, match="put maps into maps/"):
        run(CONTROL, sd15, conditions="segmentation")
    report = run(CONTROL, sd15, conditions="edges, segmentation, sketch", maps="maps of the folder")["result"][1]
    assert "for edges, segmentation, sketch" in report
    next((pack / "input" / "fruit" / "maps" / "sketch").iterdir()).unlink()
    with pytest.raises(DataError, match="no sketch map"):
        run(CONTROL, sd15, conditions="sketch", maps="maps of the folder", filename="other")


@pytest.mark.parametrize("node", [KRONECKER, CONTROL])
def test_it_learns_and_its_network_is_left_clean(node, sd15, pack):
    run(node, sd15, steps=60, weighting="none", caption_dropout=0.0, lr=0.02)
    log = [json.loads(line) for line in (pack / "output/rapiddraw/tuned-run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in log]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    assert not any(module._forward_hooks for module in current().speed.network_of("model", sd15[0]).modules())


@pytest.mark.parametrize("node", NODES)
def test_a_seed_gives_one_file_also_where_the_run_was_cancelled_between(node, sd15, pack):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(node, sd15, filename=name, seed=seed)
    assert made(pack, "a").read_bytes() == made(pack, "b").read_bytes() != made(pack, "c").read_bytes()
    set_reporter(lambda _, label, __: StopAfter(2 if label.startswith("train") else 10**9, Cancelled("enough")))
    try:
        with pytest.raises(Cancelled):
            run(node, sd15, seed=3)
    finally:
        set_reporter(None)
    assert not made(pack).exists()
    run(node, sd15, seed=3)
    assert made(pack).read_bytes() == made(pack, "a").read_bytes()


@pytest.mark.parametrize("node", NODES)
def test_the_ready_workflow_draws_with_it(node, pack):
    inputs = {**SETTINGS, **CHANGES[node], "model": ["7", 0], "clip": ["7", 1], "vae": ["7", 2]}
    graph = {
        "7": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
        "9": {"class_type": node, "inputs": inputs},
    }
    (report,) = execute(graph, registry()).outputs["9"]["text"]
    assert "tuned.json in your workflows" in report
    drawn = execute(read_graph(pack / "output" / "workflows" / "tuned.json"), registry())
    (image,) = (image for ui in drawn.outputs.values() for image in ui["images"])
    assert (pack / "output" / image["filename"]).is_file()


def test_a_ratio_out_of_reach_is_refused_before_any_work(sd15, pack, monkeypatch):
    monkeypatch.setattr(domain_run, "encode_pictures", lambda *_: pytest.fail("encoded first"))
    with pytest.raises(InputError, match="cannot be reached"):
        run(CONTROL, sd15, ratio=1e-4)


@pytest.mark.parametrize("node", NODES)
def test_bad_settings_and_a_file_of_another_kind_are_one_line_before_any_work(node, sd15, pack, tiny_weights, monkeypatch):
    monkeypatch.setattr(domain_run, "encode_pictures", lambda *_: pytest.fail("encoded first"))
    for changes, words in (({"lr": float("nan")}, "lr"), ({"filename": "../x"}, "plain relative name"), ({"steps": 0}, "steps")):
        with pytest.raises(InputError, match=words):
            run(node, sd15, **changes)
    made(pack).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny_weights / "tiny-esrgan.safetensors", made(pack))
    with pytest.raises(BundleError, match="another kind"):
        run(node, sd15)
