"""Both stages of the prompt model's training, with networks that know nothing."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import DataError, InputError
from rapiddraw.core.text.prompt_model import load_prompt_model
from rapiddraw.core.text.protect import lost
from rapiddraw.core.train import make_recipe
from rapiddraw.core.train.inputs.prompt_data import PAIRS, orchard_pairs, orchard_request, read_pairs
from rapiddraw.core.train.loop import Intervals, train
from rapiddraw.core.train.recipe import derived_seed
from rapiddraw.core.train.recipes.raft import expand

SMALL = {"count": 80, "held_out": 16, "width": 32, "layers": 1, "heads": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A prompt bundle after four steps."""
    folder = tmp_path_factory.mktemp("prompt")
    return train(make_recipe("prompt", SMALL), folder / "sft.safetensors", 4, run_dir=folder / "run").files[0]


def test_a_long_prompt_says_all_that_the_short_one_does():
    rng = random.Random(3)
    for request in (orchard_request(rng) for _ in range(200)):
        pair = request.pair
        assert not lost(pair.short, pair.keep) and not lost(pair.long, pair.keep), pair
        assert request.said and set(request.said) <= set(request.scene.attributes())
    assert orchard_pairs(20, 1) == orchard_pairs(20, 1) != orchard_pairs(20, 2)


def test_the_first_stage_writes_a_bundle_with_its_words(taught):
    bundle = load_bundle(taught, "prompt")
    again = make_recipe("prompt", {**SMALL, "base": str(taught)})
    again.setup(torch.device("cpu"))
    for key, value in again._held_out().items():
        assert bundle.info.provenance["metrics"][f"held_out_{key}"] == pytest.approx(value, abs=2e-3)
    assert load_prompt_model(bundle).vocabulary[:3] == ["[PAD]", "[SEP]", "[END]"]


def test_pairs_of_ones_own_train_as_well(tmp_path, taught):
    rows = [{"short": f"fox {i}", "long": f"a photo of fox {i}", "language": "en", "keep": [f"fox {i}"]} for i in range(6)]
    (tmp_path / PAIRS).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe = make_recipe("prompt", {**SMALL, "data": str(tmp_path), "held_out": 2, "base": str(taught)})
    assert train(recipe, tmp_path / "own.safetensors", 1, run_dir=tmp_path / "run").files[0].is_file()


@pytest.mark.parametrize("line", ["[1]", '{"short": "a"}', '{"short": "a", "long": "b", "language": "fr"}', '{"short": 3}', "nonsense"])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / PAIRS).write_text(f'{{"short": "a", "long": "b", "language": "en"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        read_pairs(tmp_path)


def test_the_second_stage_keeps_the_best_and_resumes_with_them(tmp_path, tiny_weights, taught, monkeypatch):
    given = {kind: str(tiny_weights / f"tiny-{kind}.safetensors") for kind in ("unet", "text", "vae", "judge")}
    settings = {
        **given, "base": str(taught), "graph": str(tiny_weights / "tiny-kg.safetensors"), "scorer": given["text"],
        "prompts": 2, "expansions": 2, "per_round": 2, "picture_steps": 1, "size": 32, "held_out": 2, "batch_size": 2, "lr": 0.0,
    }  # fmt: skip
    # An untrained model does not keep names; here every expansion counts.
    monkeypatch.setattr("rapiddraw.core.train.recipes.raft.lost", lambda text, terms: [])
    recipe = make_recipe("raft", settings)
    result = train(recipe, tmp_path / "raft.safetensors", 3, run_dir=tmp_path / "run", every=Intervals(save=1, log=1))
    metrics = load_bundle(result.files[0], "prompt").info.provenance["metrics"]
    # Nothing was learned at a learning rate of 0, so that before and after are one and the same measurement.
    assert metrics["reward_before"] == pytest.approx(metrics["reward_after"], abs=2e-3)
    assert int(recipe.kept.round) == 1
    # What was kept is the expansion with the highest reward, drawn and scored here once more.
    rng = random.Random("raft/0/1")
    requests = [orchard_request(rng, strangers=False) for _ in range(2)]
    generator = torch.Generator().manual_seed(derived_seed(0, "round", 1))
    found = [expand(recipe.model, request.pair, 2, 1.0, generator) for request in requests]
    total = recipe.reward([r.pair.short for r in requests for _ in range(2)], [text for rows in found for text, _ in rows], 2)[0].reshape(
        2, 2
    )
    for row, best in enumerate(total.argmax(dim=1).tolist()):
        ids, begin = found[row][best][1]
        assert recipe.kept.ids[row, : len(ids)].tolist() == ids and recipe.kept.span[row].tolist() == [begin, len(ids)]
    assert result.metrics["kept_reward"] == pytest.approx(float(total.amax(dim=1).mean()), abs=1e-3)
    assert result.metrics["reward"] == pytest.approx(float(total.mean()), abs=1e-3)

    again = make_recipe("raft", settings)
    monkeypatch.setattr(type(again), "_collect", lambda *_: pytest.fail("a resumed run has the round's best already"))
    train(again, tmp_path / "raft.safetensors", 4, run_dir=tmp_path / "run")
    assert torch.equal(again.kept.ids, recipe.kept.ids)


def test_raft_says_what_it_lacks():
    with pytest.raises(InputError, match="scorer"):
        make_recipe("raft", {"base": "x", "unet": "x", "text": "x", "vae": "x"}).check()


def test_the_judge_that_measures_is_warned_of(tmp_path, tiny_weights, monkeypatch, caplog):
    monkeypatch.setattr(paths, "weights_dirs", lambda: [tmp_path])
    recipe = make_recipe("raft", {"judge": str(tiny_weights / "tiny-judge.safetensors")})
    recipe._warn_of_the_measuring_judge()  # there is none
    (tmp_path / "orchard-judge.safetensors").write_bytes((tiny_weights / "tiny-vae.safetensors").read_bytes())
    recipe._warn_of_the_measuring_judge()  # there is another one
    assert not caplog.records
    shutil.copy(recipe.judge, tmp_path / "orchard-judge.safetensors")
    recipe._warn_of_the_measuring_judge()
    assert "tiny-judge.safetensors is the one that benchmarks measure with" in caplog.text
