"""The saved graphs: both forms agree, every link fits, and each draws something with tiny random weights."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from rapiddraw import NODE_CLASS_MAPPINGS
from rapiddraw.core import paths
from rapiddraw.core.bundles.format import LatentSpace, Schedule
from rapiddraw.core.graph.convert import NOTES
from rapiddraw.core.graph.edit import apply_changes, parse_assignment
from rapiddraw.core.graph.execute import execute
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.graph.inputs import input_specs
from rapiddraw.core.graph.layout import widget_entries
from rapiddraw.core.graph.shipped import NEED_MODELS, shipped_graphs, template_name, template_path
from rapiddraw.core.graph.validate import validate
from rapiddraw.core.image.png import is_marked
from rapiddraw.core.knowledge.graph import save_knowledge
from rapiddraw.nodes.registry import registry
from rapiddraw.tests import helpers
from rapiddraw.tests.foreign import LOADERS, with_stand_ins

FOLDER = paths.pack_root() / "workflows"
NAMES = sorted(shipped_graphs())
FEWER = {  # the same graphs, small enough for a test
    "RapidDrawOrchardDataset": {"count": 4, "size": 64},
    "RapidDrawFilterDataset": {"min_clip": -1.0, "min_aesthetics": 0.0},
    "EmptyLatentImage": {"width": 32, "height": 32},
    "EmptyImage": {"width": 16, "height": 16},
    "RapidDrawResolutionBucket": {"scale": 0.05},
    "BasicScheduler": {"steps": 2},
    "KSampler": {"steps": 2},
    "RapidDrawTimeDecoupledSampler": {"steps": 2},
    "RapidDrawKeywordPromptGenerator": {"num_prompts": 2},
    "RapidDrawSamplerAdaptiveSDE": {"max_nfe": 6},
    "RapidDrawFitKnowledgeProjection": {"described_by": "", "max_tokens": 24},
    "RapidDrawTrainKnowledgeGraph": {"steps": 2},
    "RapidDrawTrainUpscaler": {"steps": 1, "batch_size": 1, "patch": 64},
    "RapidDrawExtendKnowledgeGraph": {"facts": "mirado, is_a, thing"},
    "RapidDrawKnowledgeGraphQuery": {"entity": "mirado"},
    "RapidDrawResolutionBridgeSampler": {"steps": 4},
    "RapidDrawDistillUNet": {"steps": 1, "batch_size": 1, "size": 32, "value": 0.8},
    "RapidDrawDistillFewSteps": {"steps": 1, "batch_size": 1, "size": 32, "drawn": 2, "teacher_steps": 4, "rank": 1},
    "RapidDrawFactorizeUNet": {"value": 0.8},
    "RapidDrawTrainDomainModel": {"steps": 1, "batch_size": 1, "size": 64},
    "RapidDrawTrainTimeDecoupledPair": {"steps": 1, "batch_size": 1, "size": 64},
    "RapidDrawTrainKroneckerAdapter": {"steps": 1, "batch_size": 1, "size": 64},
    "RapidDrawTrainControlAdapter": {"steps": 1, "batch_size": 1, "size": 64},
    "RapidDrawTrainImageTokens": {"steps": 1, "batch_size": 1, "size": 64, "reading": 1},
    "RapidDrawSlimUNet": {"steps": 1, "robust_steps": 1, "batch_size": 1, "size": 64, "latency": 0.9},
    "RapidDrawPruneVAEDecoder": {"steps": 1, "batch_size": 1, "size": 64},
    "RapidDrawBlockImportance": {"size": 64, "inner_blocks": False},
    "RapidDrawProfilePipeline": {"width": 32, "height": 32, "steps": 1, "runs": 1, "warmup": 0},
}


def write_graph(path):
    """Entities enough to fit a projection on."""
    return save_knowledge(
        path, helpers.named_graph(["round", "red", "tall", "blue", "green", "fruit", "mirado", "quelba", "dots", "night"])
    )


@pytest.fixture(scope="module")
def orchard(tmp_path_factory):
    """Tiny random bundles under the names of the shipped ones."""
    folder = tmp_path_factory.mktemp("orchard")
    other = LatentSpace(channels=4, factor=4, scale=0.7)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    helpers.write_vae(folder / "orchard-vae-f4.safetensors", latent=other, block_out_channels=[32, 32, 32], **blocks)
    helpers.write_unet(folder / "orchard-unet-64.safetensors", latent=other)
    for name, write in {
        "unet": helpers.write_unet, "text": helpers.write_text, "vae": helpers.write_vae, "kg": write_graph,
        "esrgan-x4": helpers.write_esrgan, "structure-unet": helpers.write_unet, "texture-unet": helpers.write_unet,
        "segmenter": helpers.write_segmenter, "judge": helpers.write_judge, "prompt": helpers.write_prompt,
        "cartoon-adapter": helpers.write_adapter,
    }.items():  # fmt: skip
        write(folder / f"orchard-{name}.safetensors")
    for steps in (8, 4, 1):
        helpers.write_student(folder / f"orchard-{steps}-step{'s' * (steps > 1)}.safetensors", steps)
    helpers.write_unet(folder / "flow-unet.safetensors", schedule=Schedule(prediction="flow"))
    tower = helpers.write_image(folder / "pretrained-orchard-image.safetensors")
    helpers.write_text(folder / "pretrained-orchard-text.safetensors")
    helpers.write_control(folder / "orchard-control.safetensors", folder / "orchard-unet.safetensors")
    helpers.write_control(folder / "orchard-control-64.safetensors", folder / "orchard-unet-64.safetensors")
    helpers.write_image_tokens(folder / "orchard-image-tokens.safetensors", tower)
    for name in ("zh", "en"):
        helpers.write_text(folder / f"orchard-{name}-text.safetensors", width=helpers.WIDTH // 2)
    helpers.write_unet(folder / "orchard-bilingual-unet.safetensors")
    told = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": helpers.WIDTH + 256}
    helpers.write_unet(folder / "orchard-buckets-unet.safetensors", **told)
    return folder


@pytest.fixture
def nodes(orchard, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "weights_dirs", lambda: [orchard])
    monkeypatch.setattr(paths, "_dirs", {"input": tmp_path / "in", "output": tmp_path / "out", "temp": tmp_path / "temp"})
    return registry()


def known(name, nodes):
    """The nodes that a graph may use: for one that needs a user's models, ComfyUI's loaders too."""
    return {**nodes, **LOADERS} if name in NEED_MODELS else nodes


def test_the_three_graphs_are_there_in_both_forms():
    assert {"text_to_image", "knowledge_vs_plain", "keywords_to_prompts"} <= set(NAMES)
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(template_name(name) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_agree_and_can_run(name, nodes):
    nodes = known(name, nodes)
    ui, api = read_graph(template_path(name)), read_graph(FOLDER / "api" / f"{name}.json")
    assert ui.ui is not None and api.api is not None
    assert ui.to_api(nodes) == api.api, "after editing one form, write the other with `python -m rapiddraw convert`"
    assert validate(ui, nodes) == [] and validate(api, nodes) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_editor_can_load_it(name, nodes):
    nodes, ui = known(name, nodes), read_graph(template_path(name)).ui
    assert str(uuid.UUID(ui["id"])) == ui["id"]
    ids = [node["id"] for node in ui["nodes"]]
    assert len(set(ids)) == len(ids) and max(ids) == ui["last_node_id"] and max(link[0] for link in ui["links"]) == ui["last_link_id"]
    by_id = {node["id"]: node for node in ui["nodes"]}
    for number, source, slot, target, target_slot, kind in ui["links"]:
        assert number in by_id[source]["outputs"][slot]["links"] and by_id[source]["outputs"][slot]["type"] == kind
        assert by_id[target]["inputs"][target_slot]["link"] == number
    folded = {definition["id"] for definition in ui.get("definitions", {}).get("subgraphs", ())}
    for node in [*ui["nodes"], *(node for inside in ui.get("definitions", {}).get("subgraphs", ()) for node in inside["nodes"])]:
        assert node.get("title"), "every node has a title for people"
        if node["type"] not in NOTES and node["type"] not in folded:
            specs = [spec for spec in input_specs(nodes[node["type"]]).values() if spec.is_widget]
            assert len(node["widgets_values"]) == sum(len(widget_entries(spec, None)) for spec in specs)
    assert any(node["type"] in NOTES for node in ui["nodes"]), "a note says what the graph shows"


@pytest.mark.parametrize("name", NAMES)
def test_it_draws(name, nodes):
    graph = read_graph(template_path(name))
    api = with_stand_ins(name, graph.to_api(known(name, nodes)))
    if name in NEED_MODELS:
        graph = read_graph(api)
    small = [
        parse_assignment(f"{node_id}.{key}={json.dumps(value)}", api, nodes)
        for node_id, node in api.items()
        for key, value in FEWER.get(node["class_type"], {}).items()
    ]
    result = execute(apply_changes(graph, nodes, small), nodes)
    saved = [image for shown in result.outputs.values() for image in shown.get("images", ()) if image["type"] == "output"]
    for image in saved:
        path = Path(paths.output_dir()) / image["subfolder"] / image["filename"]
        assert is_marked(path) and (read_graph(path).ui is not None or name in NEED_MODELS)
    expected = {"text_to_image": 1, "knowledge_vs_plain": 1, "keywords_to_prompts": 4, "profile_pipeline": 0, "lowrank_vs_dense": 1}
    assert len(saved) == expected.get(name, len(saved))


def test_every_node_is_in_some_saved_graph():
    used = {node["class_type"] for name in NAMES for node in read_graph(FOLDER / "api" / f"{name}.json").api.values()}
    assert set(NODE_CLASS_MAPPINGS) <= used
