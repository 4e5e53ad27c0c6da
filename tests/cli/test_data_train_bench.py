"""The commands data, train, bench and inspect --manifest, each at its smallest."""

from __future__ import annotations

import json

import pytest
import torch
from rapiddraw.benchmarks import report
from rapiddraw.benchmarks.checks import CHOSEN, Basis, Expectation, above, equal, exact
from rapiddraw.benchmarks.common import names, result, results_dir, save_result
from rapiddraw.cli import main
from rapiddraw.core.bundles.format import BundleInfo, save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.bundles.manifest import check_manifest, read_manifest, write_manifest
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.lowrank.lora_file import save_lora
from rapiddraw.core.metrics.bootstrap import Estimate
from rapiddraw.core.train import RECIPES, make_recipe, recipe_class
from rapiddraw.core.train.recipe import Recipe


def test_an_orchard_folder_is_written_read_and_checked(tmp_path, capsys):
    folder = tmp_path / "orchard"
    assert main(["data", "orchard", "--split", "validation", "--count", "3", "--size", "64", "--out", str(folder), "--maps", "edges"]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    data = ImageFolder(folder)
    assert len(data) == 3
    assert data.image(0).shape == (3, 64, 64)
    assert data.map(2, "edges").shape == (64, 64)
    assert main(["data", "check", str(folder)]) == 0
    assert "3 good images, 0 problems" in capsys.readouterr().out


def test_a_bad_folder_names_its_problems(tmp_path, capsys):
    (tmp_path / "captions.jsonl").write_text('{"file_name": "gone.png", "text": "x"}\n{broken\n')
    assert main(["data", "check", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "line 1: the image 'gone.png' is missing" in shown.err
    assert "line 2 is not a JSON object" in shown.err
    assert "0 good images, 2 problems" in shown.out


@pytest.mark.parametrize("arguments", [["--split", "nowhere"], ["--count", "0"], ["--size", "9"], ["--maps", "smell"]])
def test_bad_requests_for_an_orchard_are_one_line(tmp_path, capsys, arguments):
    assert main(["data", "orchard", "--out", str(tmp_path / "o"), *arguments]) != 0
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_every_recipe_loads_and_has_sound_defaults():
    for name in RECIPES:
        recipe = make_recipe(name)
        assert recipe.name == name
        Recipe.check(recipe)  # a recipe's own check may ask for a file that has no default
        json.dumps(recipe.settings())


def test_settings_are_read_as_the_defaults_type():
    recipe = make_recipe("vae", {"lr": "3e-4", "batch_size": "5", "precision": "bf16"})
    assert (recipe.lr, recipe.batch_size, recipe.precision) == (3e-4, 5, "bf16")
    with pytest.raises(InputError, match="did you mean batch_size"):
        make_recipe("vae", {"batchsize": "5"})
    with pytest.raises(InputError, match=r"lr='fast': expected a value of type float, such as 0.001"):
        make_recipe("vae", {"lr": "fast"})
    with pytest.raises(InputError, match="the recipes are"):
        recipe_class("novel")


def test_train_writes_a_bundle_and_says_where(tmp_path, capsys):
    out = tmp_path / "kg.safetensors"
    command = ["train", "kg", "--steps", "3", "--out", str(out), "--run", str(tmp_path / "run"), "--set", "dim=8", "--seed", "4"]
    assert main([*command, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(out)
    provenance = load_bundle(out, "kg").info.provenance
    assert provenance["recipe"] == "kg"
    assert provenance["seed"] == 4
    assert provenance["settings"]["dim"] == 8
    assert (tmp_path / "run" / "loss.png").is_file()


def test_train_domain_makes_a_lora_and_a_workflow_of_a_folder_anywhere(tiny_pack, tmp_path, capsys):
    from rapiddraw.core.orchard.dataset import write_dataset

    write_dataset("train", 3, 64, tmp_path / "elsewhere" / "fruit")
    parts = [word for kind in ("unet", "text", "vae") for word in ("--set", f"{kind}=tiny-{kind}.safetensors")]
    command = ["train", "domain", "--data", str(tmp_path / "elsewhere" / "fruit"), "--steps", "2", "--out", "mine", *parts]
    assert main([*command, "--set", "size=64", "--set", "rank=2", "--set", "prompts=a red fruit|a blue fruit"]) == 0
    said = capsys.readouterr().out
    assert "2 steps on 3 pictures" in said and said.splitlines()[-1] == str(tiny_pack / "output" / "loras" / "mine.safetensors")
    assert (tiny_pack / "output" / "workflows" / "mine.json").is_file()
    assert main([*command, "--set", "ranks=2"]) == 1 and "did you mean rank" in capsys.readouterr().err
    assert main(["train", "domain", "--out", "a/b.safetensors"]) == 1 and "give a name alone" in capsys.readouterr().err
    assert main(["train", "domain", "--settings"]) == 0 and "checkpoint=''" in capsys.readouterr().out


def test_train_domain_learns_how_a_graph_is_read_and_its_workflow_reads_it_so(tiny_pack, tmp_path, capsys):
    from rapiddraw.core.orchard.dataset import write_dataset

    write_dataset("train", 3, 64, tmp_path / "fruit")
    settings = {kind: f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")} | {"graph": "tiny-kg.safetensors"}
    settings |= {"size": "64", "rank": "2", "text_rank": "2", "learn_projection": "true", "kg_scale": "0.5", "prompts": "a mirado"}

    def run(**changes):
        parts = [word for item in (settings | changes).items() for word in ("--set", "=".join(item))]
        return main(["train", "domain", "--data", str(tmp_path / "fruit"), "--steps", "2", "--out", "known", *parts])

    assert run() == 0
    said = capsys.readouterr().out.splitlines()
    assert "on 8 layers of the text encoder" in "".join(said) and said[-1].endswith("known-projection.safetensors")
    nodes = json.loads((tiny_pack / "output" / "workflows" / "known.json").read_text(encoding="utf-8"))["nodes"]
    (applied,) = (node for node in nodes if node["type"] == "RapidDrawApplyKnowledge")
    assert applied["widgets_values"] == [0.5, "known-projection.safetensors"]
    assert run(kg_scale="much") == 1 and "kg_scale='much': expected a number" in capsys.readouterr().err
    assert run(kg_scale="3") == 1 and "from 0 up to 2" in capsys.readouterr().err
    assert run(graph="") == 1 and "the CLIP has no knowledge graph" in capsys.readouterr().err
    assert run(graph="", learn_projection="false", projection="mine") == 1 and "name the graph too" in capsys.readouterr().err


def test_train_lists_settings_and_refuses_what_it_does_not_know(capsys):
    assert main(["train", "kg", "--settings"]) == 0
    assert "dim=64" in capsys.readouterr().out
    assert main(["train", "kg", "--set", "dim"]) == 1
    assert "expected KEY=VALUE" in capsys.readouterr().err
    assert main(["train", "novel"]) == 2


def test_bench_lists_its_benchmarks(capsys):
    assert main(["bench", "list"]) == 0
    shown = capsys.readouterr().out
    assert names()
    assert all(name in shown for name in names())


def test_a_result_has_the_documented_shape(tmp_path):
    found = Expectation("a is 1", equal(1), CHOSEN, exact(1, "runs")).judge(1)
    path = save_result(result("toy", "cmd", [{"a": 1}], [found]), tmp_path)
    outcome = json.loads(path.read_text())
    assert outcome.keys() == {"name", "command", "environment", "rows", "checks"}
    assert outcome["checks"][0] == {
        "claim": "a is 1", "value": 1, "expected": "1", "holds": True, "origin": CHOSEN, "count": "1 run, 1 seed",
        "resampled": "none: the value is exact", "interval": None,
    }  # fmt: skip
    assert {"python", "torch", "processor", "threads", "date"} <= outcome["environment"].keys()


def test_the_report_shows_every_row_and_check(tmp_path):
    folder = tmp_path / "results"
    much = Expectation("much", above(0.5), CHOSEN, Basis(9), "a table").judge(Estimate(0.1, 0.05, 0.2, 9))
    old = {"claim": "old", "value": 1, "expected": "1", "holds": True}
    rows = [{"arm": "x|y", "R@1": 0.123456}, {"arm": "z", "extra": [1, 2]}]
    save_result(result("toy", "python -m rapiddraw bench toy", rows, [much, old]), folder)
    text = report.write_report(folder).read_text()
    assert "1 of 2 checks hold; 1 of them have an origin" in text
    assert f"| much | 0.1 | 0.05 to 0.2 | above 0.5 | **no** | {CHOSEN} (a table) | 9 pictures, 1 seed |" in text
    assert "| old | 1 | not recorded | 1 | yes | not recorded | not recorded |" in text, "a result from before is still read"
    assert "| arm | R@1 | extra |" in text
    assert "x\\|y | 0.1235 |" in text
    (folder / "broken.json").write_text("{}")
    with pytest.raises(InputError, match=r"broken\.json"):
        report.write_report(folder)


def test_the_published_report_follows_the_results():
    path = results_dir().parent / "BENCHMARKS.md"
    outcomes = report.read_results(results_dir())
    assert path.read_text(encoding="utf-8") == report.report(outcomes, results_dir()), "run `make benchmarks`"


def test_a_manifest_notices_every_change(tmp_path):
    save_bundle(tmp_path / "a.safetensors", {"t": torch.zeros(2)}, BundleInfo("kg", provenance={"steps": 1}))
    save_bundle(tmp_path / "b.safetensors", {"t": torch.zeros(2)}, BundleInfo("vae"))
    with pytest.raises(BundleError, match="--write-manifest"):
        read_manifest(tmp_path)
    write_manifest(tmp_path)
    assert check_manifest(tmp_path) == []
    assert read_manifest(tmp_path)["a.safetensors"]["kind"] == "kg"
    save_bundle(tmp_path / "a.safetensors", {"t": torch.ones(2)}, BundleInfo("kg"))
    save_bundle(tmp_path / "c.safetensors", {"t": torch.ones(2)}, BundleInfo("kg"))
    (tmp_path / "b.safetensors").unlink()
    assert [line.split()[0] for line in check_manifest(tmp_path)] == ["b.safetensors", "c.safetensors", "a.safetensors"]


def test_a_lora_is_listed_and_described_like_a_bundle(tmp_path, capsys):
    factors = {"diffusion_model.a": (torch.ones(4, 2), torch.ones(2, 3), 2.0)}
    file = save_lora(tmp_path / "a.safetensors", factors, {"few_step": {"steps": 4}, "provenance": {"steps": 7}})
    write_manifest(tmp_path)
    entry = read_manifest(tmp_path)["a.safetensors"]
    assert entry["kind"] == "lora" and entry["provenance"] == {"steps": 7} and check_manifest(tmp_path) == []
    assert main(["inspect", str(file)]) == 0
    said = capsys.readouterr().out
    assert "lora, 0.00 MB" in said and "few_step steps 4" in said and "provenance: steps 7" in said


def test_the_chain_lists_its_stages_and_refuses_what_it_cannot_do(capsys):
    assert main(["train", "orchard", "--plan", "--only", "orchard-vae"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "start-vae: vae, 600 steps",
        "crops-vae: vae, 3600 steps, from start-vae",
        "whole-vae: vae, 1900 steps, from crops-vae",
        "orchard-vae: vae, 1200 steps, from whole-vae",
    ]
    for words, said in (
        (["--budget", "soon"], "expected a time above 0"),
        (["--budget", "0m"], "expected a time above 0"),
        (["--pictures", "3"], "expected at least 200"),
        (["--only", "orchard-vea", "--plan"], "no stage makes 'orchard-vea'"),
        (["--device", "abacus", "--budget", "1m"], "abacus"),
    ):
        assert main(["train", "orchard", *words]) != 0
        assert said in capsys.readouterr().err
