"""`train slim`: the work of the node Slim UNet from the command line, for bundles and a folder anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rapiddraw.cli import main
from rapiddraw.core.bundles.format import read_info
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.host import current
from rapiddraw.core.operations.distill import Run
from rapiddraw.core.operations.slim_model import Slim, SlimDistillation, slim_model
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.paths import using_dirs

PARTS = [word for kind in ("unet", "text", "vae") for word in ("--set", f"{kind}=tiny-{kind}.safetensors")]
SMALL = [word for one in ("measure=multiply-adds", "latency=0.75", "robust_steps=1", "size=64", "batch_size=2") for word in ("--set", one)]


def test_it_makes_what_the_core_makes_and_goes_on_where_it_stopped(
    tiny_pack: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset("train", 3, 64, tmp_path / "elsewhere" / "fruit")
    command = ["train", "slim", "--data", str(tmp_path / "elsewhere" / "fruit"), "--steps", "2", "--out", "mine", *PARTS, *SMALL]
    assert main(command) == 0
    said, made = capsys.readouterr().out, tiny_pack / "output" / "rapiddraw" / "mine.safetensors"
    assert "2 steps on 3 pictures" in said and "removed" in said and said.splitlines()[-1] == str(made)
    parts = current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))
    slim, recipe = Slim(latency=0.75, measure="multiply-adds", robust_steps=1), SlimDistillation(size=64, batch_size=2)
    with using_dirs(input=tmp_path / "elsewhere"):
        slim_model(*parts, "fruit", "same", slim, recipe, Run(2))
    one, other = (load_bundle(made.with_stem(name), "unet") for name in ("mine", "same"))
    assert one.info.extra == other.info.extra and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    written = made.stat().st_mtime_ns
    assert main([*command, "--fresh", "--set", "switches=swish for gelu", "--set", "latency=1", "--set", "graph=tiny-kg.safetensors"]) == 0
    assert made.stat().st_mtime_ns != written and set(read_info(made).extra["slim"]) == {"swish"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "a/b.safetensors"], "give a name alone"),
        (["--set", "latencies=1", *PARTS], "did you mean"),
        (["--set", "latency=2", *PARTS], "latency must be"),
        (["--set", "switches=magic", *PARTS], "expected some of no self-attention"),
        (["--set", "latency=0.05", "--set", "measure=multiply-adds", "--set", "size=64", *PARTS], "cannot be met"),
    ],
)
def test_bad_settings_are_one_line(tiny_pack: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(["train", "slim", *words]) == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_its_settings_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "slim", "--settings"]) == 0
    said = capsys.readouterr().out
    assert all(line in said for line in ("checkpoint=''", "latency=0.6", "skip=0.1", "lr=1e-05", "python -m rapiddraw train slim"))
    assert main(["train", "slim", "--help"]) == 0
    assert "settings of slim" in capsys.readouterr().out
