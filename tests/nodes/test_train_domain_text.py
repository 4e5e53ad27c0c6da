"""Train Domain Model on the text side: a LoRA of the text encoder, and the projection of a graph, by the diffusion loss."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from rapiddraw.core import paths
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.graph.execute import execute
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.graph.stock.loaders import LoraLoader
from rapiddraw.core.host import current
from rapiddraw.core.knowledge.choices import load_chosen_projection
from rapiddraw.core.knowledge.graph import load_knowledge
from rapiddraw.core.lowrank.lora_file import read_lora
from rapiddraw.core.operations.domain import DomainTuning
from rapiddraw.core.operations.domain_kronecker import KroneckerTuning
from rapiddraw.core.operations.domain_pair import PairTuning
from rapiddraw.nodes.registry import registry
from rapiddraw.tests.nodes.test_train_domain_node import KINDS, made, pictures, run

NAMED = {"folder": "mirado", "subject": "mirado", "prompts": "a mirado", "steps": 6, "lr": 0.05, "caption_dropout": 0.0}
PROMPT = "a mirado on sand"


@pytest.fixture
def parts(tiny_weights, tiny_pack, monkeypatch):
    monkeypatch.setattr(paths, "weights_dirs", lambda: [tiny_weights, paths.made_weights_dir()])  # what nodes make is found from there
    pictures(tiny_pack / "input" / "mirado", *(f"{i}.png" for i in range(12)))
    return current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in KINDS))


@pytest.fixture
def graph(tiny_weights):
    return load_knowledge(tiny_weights / "tiny-kg.safetensors")


def encoded(clip, text=PROMPT):
    return current().clip.encode(clip, text)[0][0]


def change(first, second):
    return float((first - second).abs().max())


def test_a_lora_of_the_text_encoder_lies_in_the_same_file_and_load_lora_reads_it(parts, tiny_pack):
    before = encoded(parts[1])
    model, clip, report, *_ = run(parts, **NAMED, text_rank=2)
    assert torch.equal(encoded(parts[1]), before) and change(encoded(clip), before) > 1e-3
    keys = read_lora(made(tiny_pack))
    assert {key.partition(".")[0] for key in keys} == {"diffusion_model", "text_encoders"}
    assert "text_encoders.clip_rapiddraw.transformer.text_model.encoder.layers.0.self_attn.q_proj" in keys
    assert "of rank 2 on 8 layers of the text encoder" in report
    _, stock = LoraLoader().load_lora(*parts[:2], "tuned.safetensors", 1.0, 1.0)
    assert torch.equal(encoded(stock), encoded(clip))
    _, half = LoraLoader().load_lora(*parts[:2], "tuned.safetensors", 1.0, 0.5)
    assert 0 < change(encoded(half), before) < change(encoded(clip), before)
    _, without = LoraLoader().load_lora(*parts[:2], "tuned.safetensors", 1.0, 0.0)
    assert torch.equal(encoded(without), before)


def test_the_same_seed_gives_the_same_file_and_the_text_encoder_is_off_by_default(parts, tiny_pack):
    for name in ("a", "b"):
        run(parts, **NAMED, filename=name, text_rank=2)
    assert made(tiny_pack, "a").read_bytes() == made(tiny_pack, "b").read_bytes()
    assert not {"text_rank", "text_lr", "learn_projection"} & DomainTuning().settings().keys()
    assert DomainTuning(text_rank=4).settings()["text_rank"] == 4


def test_a_projection_is_learned_through_the_diffusion_loss_and_apply_knowledge_reads_it(parts, tiny_pack, graph):
    host = current()
    informed = host.knowledge.attach(parts[1], graph, 1.0)
    before = encoded(informed)
    _, clip, report, *_ = run((parts[0], informed, parts[2]), **NAMED, learn_projection=True)
    assert torch.equal(encoded(informed), before) and change(encoded(clip), before) > 1e-3
    assert "saved the projection as tuned-projection.safetensors, for the input projection of Apply Knowledge" in report
    assert {key.partition(".")[0] for key in read_lora(made(tiny_pack))} == {"diffusion_model"}
    loaded = host.knowledge.attach(parts[1], graph, 1.0, load_chosen_projection("tuned-projection.safetensors"))
    assert torch.equal(encoded(loaded), encoded(clip))
    assert torch.equal(encoded(clip, "a red fruit"), encoded(parts[1], "a red fruit"))


def test_the_ready_workflow_reads_the_graph_by_what_was_learned(parts, tiny_pack):
    names = {f"{kind}_name": f"tiny-{kind}.safetensors" for kind in KINDS}
    api = {
        "1": {"class_type": "RapidDrawBundleLoader", "inputs": names},
        "2": {"class_type": "RapidDrawKnowledgeGraphLoader", "inputs": {"graph": "tiny-kg.safetensors"}},
        "3": {"class_type": "RapidDrawApplyKnowledge", "inputs": {"clip": ["1", 1], "knowledge": ["2", 0], "kg_scale": 1.0}},
        "4": {
            "class_type": "RapidDrawTrainDomainModel",
            "inputs": {
                "model": ["1", 0], "clip": ["3", 0], "vae": ["1", 2], "filename": "tuned", "batch_size": 2, "rank": 2, "size": 64,
                "seed": 0, "layers": "attention", **NAMED, "text_rank": 2, "learn_projection": True,
            },
        },
    }  # fmt: skip
    loader = next(iter(registry()["RapidDrawKnowledgeGraphLoader"].INPUT_TYPES()["required"]))
    api["2"]["inputs"] = {loader: "tiny-kg.safetensors"}
    execute(api, registry())
    workflow = read_graph(tiny_pack / "output" / "workflows" / "tuned.json")
    nodes = workflow.to_api(registry()).values()
    (apply,) = (node for node in nodes if node["class_type"] == "RapidDrawApplyKnowledge")
    assert apply["inputs"]["projection"] == "tuned-projection.safetensors"
    drawn = execute(workflow, registry())
    (name,) = (image["filename"] for ui in drawn.outputs.values() for image in ui["images"])
    with Image.open(tiny_pack / "output" / name) as picture:
        assert picture.size == (64, 64)


def test_what_cannot_be_learned_is_one_line_before_any_work(parts, tiny_pack, graph, monkeypatch):
    monkeypatch.setattr("rapiddraw.core.operations.domain_run.encode_pictures", lambda *_: pytest.fail("encoded first"))
    with pytest.raises(InputError, match="the CLIP has no knowledge graph; put one Apply Knowledge"):
        run(parts, **NAMED, learn_projection=True)
    with pytest.raises(InputError, match="text_rank=-1"):
        run(parts, **NAMED, text_rank=-1)
    with pytest.raises(InputError, match="text_lr"):
        run(parts, **NAMED, text_rank=1, text_lr=float("nan"))
    for recipe in (PairTuning, KroneckerTuning):
        with pytest.raises(InputError, match="does not train the text encoder"):
            recipe(text_rank=4).check()
    path = tiny_pack / "output" / "rapiddraw" / "tuned-projection.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not ours")
    informed = current().knowledge.attach(parts[1], graph, 1.0)
    with pytest.raises(BundleError, match="learn_projection"):
        run((parts[0], informed, parts[2]), **NAMED, learn_projection=True)
