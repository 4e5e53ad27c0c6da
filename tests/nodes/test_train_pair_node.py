"""Train Time-Decoupled Pair on tiny models: each LoRA learns its own noise levels, and a workflow draws with both."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from rapiddraw.core.bundles.format import Schedule
from rapiddraw.core.bundles.lora_about import read_about
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.graph.execute import execute
from rapiddraw.core.graph.formats import read_graph
from rapiddraw.core.graph.stock.loaders import LoraLoaderModelOnly
from rapiddraw.core.host import current
from rapiddraw.core.lowrank.lora_file import read_lora
from rapiddraw.core.operations.domain import DomainTuning
from rapiddraw.core.operations.domain_pair import PairTuning, part_path
from rapiddraw.core.operations.train_pair import load_pair
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.nodes.registry import registry
from rapiddraw.nodes.train_pair import LINKED, LoadTimeDecoupledLoras, TrainTimeDecoupledPair
from rapiddraw.tests.helpers import write_unet
from rapiddraw.tests.nodes.test_train_domain_node import KINDS, denoised

SETTINGS = {
    "folder": "fruit", "filename": "both", "steps": 4, "batch_size": 2, "lr": 1e-2, "rank": 4, "layers": "attention", "size": 64,
    "prompts": "a red fruit", "seed": 0, "alpha": 4.0, "t_struct": 400,
}  # fmt: skip


@pytest.fixture
def parts(tiny_weights, tiny_pack):
    write_dataset("train", 12, 64, tiny_pack / "input" / "fruit")
    return current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in KINDS))


def run(parts, **changes):
    with torch.inference_mode():
        return TrainTimeDecoupledPair().execute(*parts, **{**SETTINGS, **changes})["result"]


def file(tiny_pack, part, name="both"):
    return tiny_pack / "output" / "loras" / f"{name}-{part}.safetensors"


def test_two_files_come_out_that_load_lora_reads_and_the_base_is_as_before(parts, tiny_pack):
    before = denoised(parts[0])
    structure, texture, pair, report, plot, samples = run(parts)
    assert torch.equal(denoised(parts[0]), before)
    assert not any(module._forward_hooks for module in current().speed.network_of("model", parts[0]).modules())
    for part, model in (("structure", structure), ("texture", texture)):
        assert not torch.allclose(denoised(model), before, atol=1e-5)
        (stock,) = LoraLoaderModelOnly().load_lora_model_only(parts[0], f"both-{part}.safetensors", 1.0)
        assert torch.equal(denoised(stock), denoised(model))
        about = read_about(file(tiny_pack, part))
        assert (about["part"], about["t_struct"]) == (part, 400)
    assert not torch.equal(denoised(structure), denoised(texture))
    assert "structure from timestep 400 upwards, texture below" in report
    assert "for validation structure" in report and "for test texture" in report
    assert "both-structure.safetensors and both-texture.safetensors in loras" in report
    assert pair == "both" and plot.shape[-1] == 3 and samples.shape == (1, 128, 64, 3)


def test_each_lora_is_evaluated_and_trained_at_its_own_noise_levels(parts, tiny_pack, monkeypatch):
    seen = []
    plain = PairTuning._switched

    def watched(self, x, sigma, given):
        made = plain(self, x, sigma, given)
        seen.append((sigma.tolist(), {name: lora.strength for name, lora in self.learned.items()}))
        return made

    monkeypatch.setattr(PairTuning, "_switched", watched)
    run(parts)
    switch = float(parts[0].model.model_sampling.sigmas[400])
    acting = [(sigmas, strengths) for sigmas, strengths in seen if any(strengths.values())]
    assert {max(strengths, key=strengths.get) for _, strengths in acting} == {"structure", "texture"}
    for sigmas, strengths in acting:
        assert strengths == {"structure": float(min(sigmas) >= switch), "texture": float(max(sigmas) < switch)}


def test_the_same_seed_gives_the_same_two_files(parts, tiny_pack):
    for name in ("a", "b"):
        run(parts, filename=name)
    for part in ("structure", "texture"):
        assert file(tiny_pack, part, "a").read_bytes() == file(tiny_pack, part, "b").read_bytes()


def test_the_ready_workflow_draws_with_both(parts, tiny_pack):
    links = {"model": ["7", 0], "clip": ["7", 1], "vae": ["7", 2]}
    graph = {
        "7": {"class_type": "RapidDrawBundleLoader", "inputs": {f"{kind}_name": f"tiny-{kind}.safetensors" for kind in KINDS}},
        "9": {"class_type": "RapidDrawTrainTimeDecoupledPair", "inputs": {**SETTINGS, **links}},
    }
    (report,) = execute(graph, registry()).outputs["9"]["text"]
    path = tiny_pack / "output" / "workflows" / "both.json"
    assert "both.json in your workflows" in report
    api = read_graph(path).to_api(registry())
    sampler = next(node for node in api.values() if node["class_type"] == "RapidDrawTimeDecoupledSampler")
    loader = next(number for number, node in api.items() if node["class_type"] == "RapidDrawLoadTimeDecoupledLoras")
    assert [sampler["inputs"][name] for name in ("structure", "texture", "t_struct")] == [[loader, 0], [loader, 1], [loader, 2]]
    drawn = execute(api, registry())
    (name,) = (image["filename"] for ui in drawn.outputs.values() for image in ui["images"])
    with Image.open(tiny_pack / "output" / name) as picture:
        assert picture.size == (64, 64)


def test_the_loader_tells_the_switch_and_refuses_an_exchanged_pair(parts, tiny_pack):
    structure, texture, *_ = run(parts)
    run(parts, filename="other", t_struct=700)
    node, names = LoadTimeDecoupledLoras(), ("both-structure.safetensors", "both-texture.safetensors")
    first, second, switch = node.execute(parts[0], *names, 1.0, 1.0)
    assert switch == 400 and torch.equal(denoised(first), denoised(structure)) and torch.equal(denoised(second), denoised(texture))
    linked = node.execute(parts[0], LINKED, LINKED, 1.0, 1.0, pair="both")
    assert linked[2] == 400 and torch.equal(denoised(linked[0]), denoised(first)) and torch.equal(denoised(linked[1]), denoised(second))
    with pytest.raises(InputError, match="no LoRA was chosen"):
        node.execute(parts[0], LINKED, names[1], 1.0, 1.0)
    with pytest.raises(BundleError, match="exchange the two"):
        node.execute(parts[0], names[1], names[0], 1.0, 1.0)
    with pytest.raises(BundleError, match=r"change at timesteps \[400, 700\]"):
        node.execute(parts[0], names[0], "other-texture.safetensors", 1.0, 1.0)
    with pytest.raises(BundleError, match="no LoRA named"):
        node.execute(parts[0], names[0], "none.safetensors", 1.0, 1.0)
    same, other, _ = load_pair(parts[0], file(tiny_pack, "structure"), file(tiny_pack, "texture"), (0.0, 1.0))
    assert same is parts[0] and other is not parts[0]
    assert set(read_lora(file(tiny_pack, "structure"))) == set(read_lora(file(tiny_pack, "texture")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"t_struct": 0}, "t_struct=0"), ({"t_struct": 1000}, "t_struct=1000"), ({"filename": ""}, "empty"), ({"rank": 0}, "rank=0")],
)
def test_settings_out_of_range_are_one_line_before_any_work(parts, monkeypatch, changes, words):
    monkeypatch.setattr("rapiddraw.core.operations.domain_run.open_domain", lambda *_: pytest.fail("read first"))
    with pytest.raises(InputError, match=words):
        run(parts, **changes)


@pytest.mark.parametrize(("t_min", "t_struct", "left"), [(0, 600, "the structure LoRA"), (500, 400, "the texture LoRA")])
def test_a_base_of_some_timesteps_only_is_refused_before_any_work(parts, tmp_path, monkeypatch, t_min, t_struct, left):
    monkeypatch.setattr("rapiddraw.core.operations.domain_run.encode_pictures", lambda *_: pytest.fail("encoded first"))
    part = write_unet(tmp_path / "part.safetensors", schedule=Schedule(t_min=t_min, t_max=t_min + 500))
    model = current().model.load(part)
    with pytest.raises(InputError, match=f"timesteps {t_min} to {t_min + 500} of 1000 alone, which leaves nothing for {left}") as raised:
        run((model, *parts[1:]), t_struct=t_struct)
    assert "choose a t_struct inside that range" in str(raised.value)
    recipe = DomainTuning(t_min=t_min - 300 if t_min else 600, t_max=t_min or 900)
    with pytest.raises(InputError, match="leaves nothing for this training: choose t_min and t_max inside that range"):
        recipe.check_model(model, None)


def test_a_file_of_the_pair_that_another_program_made_is_left_alone(parts, tiny_pack):
    from safetensors.torch import save_file

    path = file(tiny_pack, "texture")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(BundleError, match="both-texture.safetensors is a LoRA of another program"):
        run(parts)
    assert part_path(file(tiny_pack, "structure"), "texture") == path
