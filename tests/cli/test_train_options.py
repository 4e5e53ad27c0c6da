"""Options of `train` that say how a run goes: each is heeded, or refused in one line before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rapiddraw.cli import main
from rapiddraw.core.orchard.dataset import write_dataset

PARTS = [word for kind in ("unet", "text", "vae") for word in ("--set", f"{kind}=tiny-{kind}.safetensors")]
SMALL = [word for one in ("size=64", "rank=2", "batch_size=1") for word in ("--set", one)]
SLIM = [word for one in ("size=64", "batch_size=1", "latency=1", "switches=swish for gelu") for word in ("--set", one)]


@pytest.fixture
def fruit(tiny_pack: Path) -> Path:
    return write_dataset("train", 3, 64, tiny_pack / "elsewhere" / "fruit")


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("recipe", ["domain", "pair"])
def test_a_training_on_a_model_heeds_folder_and_intervals(fruit: Path, tiny_pack: Path, tmp_path: Path, recipe: str) -> None:
    command = ["train", recipe, "--data", str(fruit), "--steps", "6", "--out", "mine", *PARTS, *SMALL]
    run = tmp_path / "runs" / "here"
    assert main([*command, "--run", str(run), "--save-every", "4", "--log-every", "3", "--eval-every", "2"]) == 0
    assert logged(run) == [3, 6]
    assert sorted(path.name for path in run.glob("samples-*.png")) == [f"samples-0000000{step}.png" for step in (2, 4, 6)]
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [f"checkpoint-0000000{step}.safetensors" for step in (4, 6)]
    assert (run / "loss.png").is_file() and not (tiny_pack / "output" / "rapiddraw" / "mine-run").exists()
    assert main([*command, "--run", str(tmp_path / "silent"), "--eval-every", "0"]) == 0
    assert logged(tmp_path / "silent") == [1, 2, 3, 4, 5, 6] and not list((tmp_path / "silent").glob("samples-*"))
    assert main([*command]) == 0
    assert len(list((tiny_pack / "output" / "rapiddraw" / "mine-run").glob("samples-*"))) == 6  # of 6 steps, four parts are one step each


def test_slim_heeds_folder_and_intervals(fruit: Path, tiny_pack: Path, tmp_path: Path) -> None:
    command = ["train", "slim", "--data", str(fruit), "--steps", "4", "--out", "mine", *PARTS, *SLIM]
    assert main([*command, "--run", str(tmp_path / "here"), "--log-every", "2", "--save-every", "3"]) == 0
    assert logged(tmp_path / "here") == [2, 4] and not (tiny_pack / "output" / "rapiddraw" / "mine-run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["slim", "--eval-every", "2"], "--eval-every has no meaning for train slim"),
        (["kg", "--eval-every", "2"], "--eval-every has no meaning for train kg"),
        (["domain", "--budget", "3h"], "--budget has no meaning for train domain: it is for train orchard"),
        (["unet", "--only", "orchard-vae"], "--only has no meaning for train unet"),
        (["pair", "--plan"], "--plan has no meaning for train pair"),
        (["orchard", "--steps", "3", "--plan"], "--steps has no meaning for train orchard: its stages have settings of their own"),
        (["orchard", "--set", "lr=1", "--plan"], "--set has no meaning for train orchard"),
        (["orchard", "--settings"], "--settings has no meaning for train orchard"),
        (["orchard", "--fresh"], "--fresh has no meaning for train orchard"),
        (["orchard", "--log-every", "5"], "--log-every has no meaning for train orchard"),
        (["domain", "--log-every", "0", *PARTS], "log_every must be a whole number from 1"),
        (["domain", "--eval-every", "-1", *PARTS], "eval_every must be a whole number from 0"),
        (["pair", "--save-every", "0", *PARTS], "save_every must be a whole number from 1"),
        (["slim", "--log-every", "0", *PARTS], "log_every must be a whole number from 1"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused_before_a_model_is_loaded(
    tiny_pack: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapiddraw.core.graph.execute.execute", lambda *_: pytest.fail("a model was loaded"))
    assert main(["train", *words]) == 1
    shown = capsys.readouterr()
    assert said in shown.err and len(shown.err.strip().splitlines()) == 1 and not shown.out


@pytest.mark.parametrize(("recipe", "more"), [("domain", SMALL), ("pair", SMALL), ("slim", SLIM)])
def test_other_settings_than_the_runs_are_refused_before_a_model_is_loaded(
    fruit: Path, recipe: str, more: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", recipe, "--data", str(fruit), "--steps", "1", "--out", "mine", *PARTS, *more]
    assert main(command) == 0
    monkeypatch.setattr("rapiddraw.core.graph.execute.execute", lambda *_: pytest.fail("a model was loaded"))
    assert main([*command, "--seed", "7"]) == 1
    assert "seed was 0 and is 7" in capsys.readouterr().err


def test_a_recipe_refuses_other_bundles_before_it_prepares_anything(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rapiddraw.core.train.recipes.kronecker import KroneckerRecipe
    from rapiddraw.tests.helpers import write_unet

    write_dataset("train", 4, 64, tmp_path / "fruit")
    other = write_unet(tmp_path / "other-unet.safetensors", seed=9)
    bundles = [f"{kind}={tiny_weights / f'tiny-{name}.safetensors'}" for kind, name in (("vae", "vae"), ("text", "text"))]
    words = [word for one in (*bundles, "size=64", "batch_size=2") for word in ("--set", one)]
    command = ["train", "kronecker", "--data", str(tmp_path / "fruit"), "--steps", "1", "--run", str(tmp_path / "run"), *words]
    command += ["--out", str(tmp_path / "mine.safetensors"), "--device", "cpu"]
    assert main([*command, "--set", f"base={tiny_weights / 'tiny-unet.safetensors'}"]) == 0
    monkeypatch.setattr(KroneckerRecipe, "setup", lambda *_: pytest.fail("the folder was encoded"))
    assert main([*command, "--set", f"base={other}"]) == 1
    assert "base was" in capsys.readouterr().err
