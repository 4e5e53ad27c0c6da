"""Chains: the plan is checked, stages run once, and a budget scales their steps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.bundles.manifest import read_manifest
from rapiddraw.core.errors import Cancelled, InputError, TrainingError
from rapiddraw.core.paths import pack_root
from rapiddraw.core.progress import clear_cancel, request_cancel
from rapiddraw.core.train.chain.report import write_report
from rapiddraw.core.train.chain.run import Places, draw, run_chain
from rapiddraw.core.train.chain.stages import CHAINS, SHIPPED, read_chain
from rapiddraw.core.train.chain.together import ends, run_together
from rapiddraw.core.train.loop import train
from rapiddraw.core.train.recipes.vae import VaeRecipe

SMALL = {"size": 64, "widths": [32, 32], "latent_channels": 4, "batch_size": 2, "warmup": 1, "precision": "no"}
PLAN = {
    "data": {"few": {"split": "train", "count": 4, "size": 64}},
    "stages": [
        {"makes": ["first"], "recipe": "vae", "data": "few", "steps": 4, "share": 1, "keep": False, "set": SMALL},
        {"makes": ["second"], "recipe": "vae", "data": "few", "steps": 3, "share": 3, "files": {"base": "first"},
         "set": {"size": 64, "batch_size": 2, "precision": "no"}},
        {"makes": ["other"], "recipe": "vae", "data": "few", "steps": 2, "share": 1, "set": SMALL},
    ],
}  # fmt: skip


def plan(tmp_path, **changes):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**PLAN, **changes}), encoding="utf-8")
    return read_chain(path)


def places(tmp_path):
    return Places(tmp_path / "out", tmp_path / "runs", tmp_path / "data")


def test_the_shipped_chain_makes_every_shipped_file():
    chain = read_chain()
    made = {f"{name}.safetensors" for stage in chain.stages if stage.keep for name in stage.makes if name not in stage.drop}
    assert made == set(read_manifest(pack_root() / "weights"))


def test_the_chain_that_trains_further_reads_and_makes_shipped_files():
    chain, shipped = read_chain(CHAINS["further"]), set(read_manifest(pack_root() / "weights"))
    assert {f"{name}.safetensors" for stage in chain.stages if stage.keep for name in stage.makes if name not in stage.drop} <= shipped
    read = {name.removeprefix(SHIPPED) for stage in chain.stages for name in stage.reads() if name.startswith(SHIPPED)}
    assert read and {f"{name}.safetensors" for name in read} <= shipped


def test_the_reward_of_prompts_comes_from_another_judge_than_the_one_that_measures():
    chain = read_chain()
    rewarding = chain.maker_of(chain.maker_of("orchard-prompt").files["judge"])
    measuring = chain.maker_of("orchard-judge")
    assert rewarding.recipe == measuring.recipe == "judge" and rewarding.name != measuring.name
    assert rewarding.data and rewarding.settings["seed"] != measuring.settings.get("seed", 0) and not rewarding.keep


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"recipe": "vea"}, "no recipe named 'vea'"),
        ({"set": {"sizes": 64}}, "no setting 'sizes'"),
        ({"data": "many"}, "no dataset named 'many'"),
        ({"files": {"base": "third"}}, "no earlier stage makes third"),
        ({"makes": ["first"]}, "made by an earlier stage"),
        ({"steps": 0}, "steps=0"),
        ({"share": -1}, "share=-1"),
        ({"when": 3}, "unknown keys when"),
    ],
)
def test_a_plan_that_cannot_work_names_its_stage(tmp_path, stage, said):
    stages = [PLAN["stages"][0], {**PLAN["stages"][1], **stage}]
    with pytest.raises(InputError, match=said):
        plan(tmp_path, stages=stages)


def test_only_what_is_needed_is_trained_and_nothing_twice(tmp_path):
    chain = plan(tmp_path)
    with pytest.raises(InputError, match="no stage makes 'third'"):
        run_chain(chain, places(tmp_path), ["third"])
    done = run_chain(chain, places(tmp_path), ["second"], device="cpu")
    assert [(one.stage, one.what, one.steps) for one in done] == [("first", "trained", 4), ("second", "trained", 3)]
    assert (tmp_path / "out" / "second.safetensors").is_file() and not (tmp_path / "out" / "first.safetensors").exists()
    before = (tmp_path / "out" / "second.safetensors").stat().st_mtime_ns
    again = run_chain(chain, places(tmp_path), device="cpu")
    assert [one.what for one in again] == ["kept", "kept", "trained"]
    assert (tmp_path / "out" / "second.safetensors").stat().st_mtime_ns == before
    report = write_report(tmp_path / "report.md", again, "python -m rapiddraw train orchard").read_text(encoding="utf-8")
    assert "| second | kept | 3 |" in report and len(json.loads((tmp_path / "report.json").read_text())["stages"]) == 3


def test_what_follows_from_a_changed_stage_is_trained_again(tmp_path):
    chain = plan(tmp_path)
    run_chain(chain, places(tmp_path), ["second"], device="cpu")
    first, *rest = chain.stages
    changed = replace(chain, stages=(replace(first, settings={**first.settings, "lr": 1e-4}), *rest))
    assert [one.what for one in run_chain(changed, places(tmp_path), ["second"], device="cpu")] == ["trained", "trained"]
    (tmp_path / "out" / "second.safetensors").write_bytes(b"")
    assert [one.what for one in run_chain(changed, places(tmp_path), ["second"], device="cpu")] == ["kept", "trained"]


def test_a_chain_that_was_stopped_goes_on_in_the_middle_of_its_stage(tmp_path, monkeypatch):
    chain = plan(tmp_path)
    real, seen = VaeRecipe.loss, []

    def loss(self, batch):
        seen.append(1)
        if len(seen) == 6:  # the second step of the second stage
            request_cancel()
        return real(self, batch)

    monkeypatch.setattr(VaeRecipe, "loss", loss)
    with pytest.raises(Cancelled):
        run_chain(chain, places(tmp_path), ["second"], device="cpu")
    clear_cancel()
    assert [one.what for one in run_chain(chain, places(tmp_path), ["second"], device="cpu")] == ["kept", "trained"]
    assert len(seen) == 7
    monkeypatch.undo()
    whole = run_chain(chain, Places(tmp_path / "a", tmp_path / "b", tmp_path / "data"), ["second"], device="cpu")
    assert len(whole) == 2
    one, two = (load_bundle(folder / "second.safetensors").tensors for folder in (tmp_path / "out", tmp_path / "a"))
    assert all(bool((one[key] == two[key]).all()) for key in one)


def test_a_budget_takes_as_many_steps_as_fit_and_a_resumed_run_keeps_them(tmp_path, monkeypatch):
    recipe = {**SMALL, "widths": (32, 32)}
    clock = iter(range(0, 10_000_000, 1))
    monkeypatch.setattr("rapiddraw.core.train.loop.time.perf_counter", lambda: next(clock) / 2)  # half a second a step
    data = draw(plan(tmp_path).data["few"], tmp_path / "data" / "few")
    result = train(VaeRecipe(data=str(data), **recipe), tmp_path / "a.safetensors", 50, run_dir=tmp_path / "run", device="cpu", seconds=4.5)
    assert result.steps == 8  # half a second was setting up
    monkeypatch.setattr("rapiddraw.core.train.loop.time.perf_counter", lambda: 0.0)
    again = train(VaeRecipe(data=str(data), **recipe), tmp_path / "b.safetensors", 50, run_dir=tmp_path / "run", device="cpu", seconds=4.5)
    assert again.steps == 8
    least = train(VaeRecipe(data=str(data), **recipe), tmp_path / "c.safetensors", 2, run_dir=tmp_path / "run2", device="cpu", seconds=1e-6)
    assert least.steps == 2
    with pytest.raises(InputError, match="budget"):
        run_chain(plan(tmp_path), places(tmp_path), budget=0.0)


@pytest.mark.parametrize("place", ["data/few", "runs/first"])
def test_a_folder_that_no_chain_has_made_is_never_removed(tmp_path, place):
    mine = tmp_path / place / "captions.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("a user's own", encoding="utf-8")
    with pytest.raises(InputError, match="was not made by this chain"):
        run_chain(plan(tmp_path), places(tmp_path), ["first"], device="cpu")
    assert mine.read_text(encoding="utf-8") == "a user's own"


def test_a_dataset_left_half_drawn_is_drawn_again(tmp_path, monkeypatch):
    few = plan(tmp_path).data["few"]
    with monkeypatch.context() as patch:
        patch.setattr("rapiddraw.core.orchard.dataset.render", lambda *_, **__: (_ for _ in ()).throw(OSError("the power went off")))
        with pytest.raises(Exception, match="the power went off"):
            draw(few, tmp_path / "data" / "few")
    assert len(list((draw(few, tmp_path / "data" / "few") / "images").iterdir())) == 4
    bigger = draw(replace(few, count=5), tmp_path / "data" / "few")
    assert len(list((bigger / "images").iterdir())) == 5


def test_stages_trained_together_are_those_trained_one_by_one(tmp_path):
    chain = plan(tmp_path)
    one, many = (Places(tmp_path / name / "out", tmp_path / name / "runs", tmp_path / "data") for name in ("one", "many"))
    alone = run_chain(chain, one, device="cpu")
    together = run_chain(chain, many, device="cpu", jobs=2)
    assert [(done.stage, done.what, done.steps) for done in together] == [(done.stage, done.what, done.steps) for done in alone]
    for name in ("second", "other"):
        a, b = (load_bundle(place.out / f"{name}.safetensors").tensors for place in (one, many))
        assert all(bool((a[key] == b[key]).all()) for key in a)


def work(stage, seconds):
    """Stand for a training: a stage called `first` of no budget fails."""
    if stage.name == "first" and seconds is None:
        raise ValueError("no paper in the printer")
    return stage.name, seconds


def test_a_stage_that_fails_stops_only_those_that_need_it(tmp_path):
    stages = plan(tmp_path).stages
    with pytest.raises(TrainingError, match=r"first: ValueError: no paper in the printer\. Not begun, because they need those: second\. "):
        run_together(stages, work, 2, None)


def test_each_stage_ends_at_its_place_on_the_longest_way(tmp_path):
    stages = plan(tmp_path).stages
    assert ends(stages) == {"first": 0.25, "second": 1.0, "other": 0.25}
    last = (*stages[:2], replace(stages[2], files={"base": "second"}))
    assert ends(last) == {"first": 0.2, "second": 0.8, "other": 1.0}
    found = run_together(stages, work, 3, 1000.0)
    assert [name for name, _ in found] == ["first", "second", "other"]
    assert 200 < found[0][1] <= 250 and 900 < found[1][1] <= 1000


def test_a_budget_is_kept_where_steps_become_slower(tmp_path, monkeypatch):
    recipe = {**SMALL, "widths": (32, 32)}
    now, calls = [0.0], []

    def clock():  # two calls a step: the first steps take half a second each, later ones a second
        calls.append(1)
        now[0] += 0.5 if len(calls) < 10 else 1.0
        return now[0]

    monkeypatch.setattr("rapiddraw.core.train.loop.MEASURED_AGAIN", 4)
    monkeypatch.setattr("rapiddraw.core.train.loop.time.perf_counter", clock)
    data = draw(plan(tmp_path).data["few"], tmp_path / "data" / "few")
    result = train(VaeRecipe(data=str(data), **recipe), tmp_path / "a.safetensors", 500, run_dir=tmp_path / "run", device="cpu", seconds=12)
    assert 12 <= result.steps <= 15  # 23 by the first steps
