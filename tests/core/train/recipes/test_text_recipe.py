"""The recipes `kg` and `text`: they learn, write bundles that load, and unseen names stay out of every caption."""

from __future__ import annotations

import json
import random

import pytest
import torch
from rapiddraw.core.bundles.format import read_info
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import DataError, InputError
from rapiddraw.core.knowledge.graph import build_graph, load_knowledge
from rapiddraw.core.knowledge.linking import wordpiece_linker
from rapiddraw.core.knowledge.transe import link_prediction
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.orchard.entities import entities
from rapiddraw.core.paths import pack_root
from rapiddraw.core.text.embed import KnowledgeTable, embed_texts, tokenize_linked
from rapiddraw.core.text.encoder import load_text_encoder
from rapiddraw.core.text.image_tower import load_image_tower
from rapiddraw.core.train.inputs.text_data import folder_items, orchard_items
from rapiddraw.core.train.loop import train
from rapiddraw.core.train.recipes.kg import KgRecipe, orchard_graph
from rapiddraw.core.train.recipes.text import TextRecipe, control_graph

TINY = {"width": 32, "layers": 1, "heads": 2, "projection_dim": 16, "count": 24, "batch_size": 8, "precision": "no", "warmup": 2}


@pytest.fixture(scope="module")
def kg_recipe():
    return KgRecipe(dim=8, negatives=4)


@pytest.fixture(scope="module")
def kg_path(kg_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("kg") / "kg.safetensors"
    train(kg_recipe, out, 6, run_dir=out.parent / "run", device="cpu")
    return out


def test_kg_recipe_writes_the_whole_graph(kg_recipe, kg_path):
    graph = load_knowledge(kg_path)
    assert len(graph.aliases) == 480
    assert graph.dim == 8
    assert torch.equal(graph.embeddings, kg_recipe.model.entities.detach())
    assert graph.provenance["metrics"]["known_mrr"] == pytest.approx(link_prediction(kg_recipe.model, kg_recipe.graph)["mrr"])


def test_kg_recipe_reads_a_users_triples_and_can_hold_some_out(tmp_path):
    (tmp_path / "own.tsv").write_text("\n".join(f"e{i}\tr\tt{i % 3}" for i in range(30)) + "\ne1\talias@en\tfirst\n", encoding="utf-8")
    recipe = KgRecipe(data=str(tmp_path / "own.tsv"), dim=4, batch_size=16, held_out=0.2)
    train(recipe, tmp_path / "own.safetensors", 3, run_dir=tmp_path / "run", device="cpu")
    assert "held_out_mrr" in read_info(tmp_path / "own.safetensors").provenance["metrics"]


def test_text_recipe_trains_and_writes_both_towers(kg_path, tmp_path):
    recipe = TextRecipe(graph=str(kg_path), **TINY)
    files = train(recipe, tmp_path / "my-text.safetensors", 3, run_dir=tmp_path / "run", device="cpu").files
    assert [f.name for f in files] == ["my-text.safetensors", "my-image.safetensors"]
    encoder, tower = load_text_encoder(load_bundle(files[0], "text")), load_image_tower(load_bundle(files[1], "image"))
    graph = load_knowledge(kg_path)
    table = KnowledgeTable(graph, wordpiece_linker(graph, encoder.tokenizer))
    with torch.no_grad():
        texts = embed_texts(encoder, table, ["a photo of a fruit", f"a photo of a {entities()[0].name_en}"])
        assert texts.shape == tower(torch.zeros(2, 3, 64, 64)).shape == (2, 16)
        plain = embed_texts(encoder, None, ["a photo of a fruit", f"a photo of a {entities()[0].name_en}"])
    assert torch.equal(texts[0], plain[0])  # nothing is named: the graph changes nothing
    assert not torch.equal(texts[1], plain[1])


def test_knowledge_dropout_of_everything_equals_no_graph(kg_path):
    recipe = TextRecipe(graph=str(kg_path), knowledge_dropout=1.0, **TINY)
    recipe.setup(torch.device("cpu"))
    batch = recipe.batch(0, torch.Generator().manual_seed(0))
    assert (batch["rows"] > 0).any()
    with_table = recipe.loss(batch)["loss"]
    recipe.table = None
    assert torch.equal(with_table, recipe.loss(batch)["loss"])


def test_batches_depend_on_their_arguments_alone(kg_path):
    recipe = TextRecipe(graph=str(kg_path), **TINY)
    recipe.setup(torch.device("cpu"))
    first, again = (recipe.batch(3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_pictures_of_one_entity_are_not_negatives(kg_path):
    recipe = TextRecipe(graph=str(kg_path), knowledge="none", **TINY)
    recipe.setup(torch.device("cpu"))
    recipe.encoder.eval()
    recipe.tower.eval()
    batch = recipe.batch(0, torch.Generator().manual_seed(0))
    batch["group"] = torch.zeros(8, dtype=torch.long)
    assert float(recipe.loss(batch)["loss"].detach()) == pytest.approx(0.0, abs=1e-6)


def test_no_training_caption_names_an_unseen_fruit_and_rare_ones_keep_three():
    unseen = [name for e in entities() if e.split == "unseen" for name in (e.name_en, e.name_zh)]
    rare = {e.id: 0 for e in entities() if e.split == "rare"}
    items = orchard_items("train", 320, 64)
    rng = random.Random(0)
    for item in items:
        captions = [*item.captions, *(item.draw(rng) for _ in range(3))]
        assert not any(name in caption for caption in captions for name in unseen)
        if item.entity in rare:
            rare[item.entity] += len(set(captions))
    assert max(rare.values()) <= 3


def test_controls_keep_everything_but_the_meaning():
    graph = orchard_graph()
    graph = graph.with_embeddings(torch.randn(len(graph.entities), 4, generator=torch.Generator().manual_seed(0)))
    rows = [graph.index[entity] for entity in graph.aliases]
    shuffled, drawn = control_graph(graph, "shuffled", 0).embeddings, control_graph(graph, "random", 0).embeddings
    assert not (shuffled[rows] == graph.embeddings[rows]).all(1).any()  # nobody keeps their own
    assert torch.equal(shuffled[rows].sort(0).values, graph.embeddings[rows].sort(0).values)
    assert torch.equal(control_graph(graph, "shuffled", 0).embeddings, shuffled)
    assert drawn[rows].std() == pytest.approx(float(graph.embeddings[rows].std()), rel=0.1)
    assert control_graph(graph, "none", 0).vector(next(iter(graph.aliases))) is None
    with pytest.raises(InputError, match="knowledge="):
        control_graph(graph, "other", 0)


def test_rows_name_the_right_entity_token_by_token(kg_path):
    recipe = TextRecipe(graph=str(kg_path), **TINY)
    recipe.setup(torch.device("cpu"))
    fruit = entities()[-1]
    ids, rows = tokenize_linked(recipe.encoder, recipe.table, [f"a photo of {fruit.name_en} by day", fruit.name_zh])
    tokens = recipe.encoder.tokenizer.convert_ids_to_tokens(ids[0].tolist())
    spelled = "".join(t.replace("##", "") for t, row in zip(tokens, rows[0].tolist(), strict=True) if row)
    assert spelled == fruit.name_en
    assert set(rows[0].tolist()) == {0, recipe.table.graph.index[fruit.id] + 1} == set(rows[1].tolist())


def test_an_image_folder_is_read_with_its_captions(tmp_path):
    root = write_dataset("train", 3, 64, tmp_path / "set")
    items = folder_items(root, 32)
    assert [item.image.shape for item in items] == [(32, 32, 3)] * 3
    assert items[0].scenery
    assert items[0].captions
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "captions.jsonl").write_text(json.dumps({"file_name": "../x.png", "text": "a"}), encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        folder_items(tmp_path / "own", 32)
    with pytest.raises(DataError, match="captions.jsonl"):
        folder_items(tmp_path / "nothing", 32)


def test_a_second_stage_goes_on_from_a_first_and_keeps_its_image_tower(kg_path, tmp_path):
    first = TextRecipe(graph=str(kg_path), names=False, **TINY)
    start, image = train(first, tmp_path / "first-text.safetensors", 2, run_dir=tmp_path / "run1", device="cpu").files
    batch = first.batch(0, torch.Generator().manual_seed(0))
    assert (batch["rows"] == 0).all()  # a describing caption names nothing
    second = TextRecipe(graph=str(kg_path), start=str(start), lock_images=True, **TINY)
    files = train(second, tmp_path / "second-text.safetensors", 2, run_dir=tmp_path / "run2", device="cpu").files
    before, after = load_bundle(image).tensors, load_bundle(files[1]).tensors
    assert all(torch.equal(before[key], after[key]) for key in before)
    before, after = load_bundle(start).tensors, load_bundle(files[0]).tensors
    assert not torch.equal(before["kg_projection.weight"], after["kg_projection.weight"])
    with pytest.raises(InputError, match="start"):
        TextRecipe(lock_images=True).check()


def test_bad_settings_are_refused():
    for bad in ({"knowledge": "some"}, {"knowledge_dropout": 1.5}, {"alike": -1}):
        with pytest.raises(InputError):
            TextRecipe(**bad).check()
    with pytest.raises(InputError, match="held_out"):
        KgRecipe(held_out=1.0).check()


SHIPPED = pack_root() / "weights" / "pretrained-orchard-text.safetensors"


@torch.no_grad()
def test_the_shipped_encoder_knows_unseen_fruits_by_the_graph_alone():
    """Two captions that differ in nothing but an unseen name: the graph must tell the pictures apart, without it they are chance."""
    import numpy as np
    from rapiddraw.core.orchard.captions import name_caption
    from rapiddraw.core.orchard.render import render

    encoder = load_text_encoder(load_bundle(SHIPPED, "text"))
    tower = load_image_tower(load_bundle(SHIPPED.with_name("pretrained-orchard-image.safetensors"), "image"))
    graph = load_knowledge(SHIPPED.with_name("orchard-kg.safetensors"))
    assert graph.dim == encoder.config["kg_dim"]
    assert [e.id for e in entities() if graph.vector(e.id) is None] == []
    unseen = [e for e in entities() if e.split == "unseen"][:40]
    fixed = {"ground": "grass", "sky": "day", "style": "fine", "size": "large", "position": "middle"}
    scenes = [e.scene(random.Random(i), **fixed) for i, e in enumerate(unseen)]
    images = tower(torch.from_numpy(np.stack([render(s, 64) for s in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1)
    table = KnowledgeTable(graph, wordpiece_linker(graph, encoder.tokenizer))
    for language in ("en", "zh"):
        captions = [name_caption(s, e, language) for s, e in zip(scenes, unseen, strict=True)]
        ranks = []
        for known in (table, None):
            similarity = embed_texts(encoder, known, captions) @ images.T
            ranks.append(float((similarity > similarity.diagonal()[:, None]).sum(1).float().mean()))
        assert ranks[0] < 8, f"{language}: mean rank {ranks[0]} of 40 with the graph"
        assert 12 < ranks[1] < 28, f"{language}: mean rank {ranks[1]} of 40 without it, 19.5 is chance"


def test_a_graph_without_names_links_nothing(kg_path):
    recipe = TextRecipe(graph=str(kg_path), **TINY)
    recipe.setup(torch.device("cpu"))
    empty = build_graph([("a", "r", "b")]).with_embeddings(torch.ones(2, 8))
    table = KnowledgeTable(empty, wordpiece_linker(empty, recipe.encoder.tokenizer))
    assert tokenize_linked(recipe.encoder, table, ["a b"])[1].sum() == 0
