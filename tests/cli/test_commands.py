from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys

import pytest
from rapiddraw.cli import COMMANDS, main

PRESENT = [command for command in COMMANDS if importlib.util.find_spec(f"rapiddraw.cli.{command}")]

HEAVY = {"torch", "diffusers", "transformers", "numpy", "PIL", "matplotlib", "accelerate", "torchvision", "basicsr", "einops"}


@pytest.mark.parametrize("command", PRESENT)
def test_every_help_shows_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"python -m rapiddraw {command}" in capsys.readouterr().out


def test_the_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"    {command}" in text for command in PRESENT)


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in PRESENT)])
def test_start_up_imports_nothing_heavy(arguments):
    code = (
        f"import sys; from rapiddraw.cli import main; code = main({arguments!r}); "
        f"heavy = {HEAVY!r} & set(sys.modules); sys.exit(f'imported {{heavy}}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 (our own code)
    assert done.returncode == 0, done.stderr


def test_wrong_usage_exits_with_2(capsys):
    assert main([]) == 2
    assert main(["rnu"]) == 2
    assert main(["run"]) == 2
    capsys.readouterr()


def test_nodes_lists_inputs_and_outputs(capsys):
    assert main(["nodes", "EmptyLatentImage"]) == 0
    text = capsys.readouterr().out
    assert "width: INT (default 512; min 16" in text and "out  LATENT: LATENT" in text
    assert main(["nodes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["KSampler"]["outputs"] == [{"name": "LATENT", "type": "LATENT", "list": False}]
    steps = next(entry for entry in data["KSampler"]["inputs"] if entry["name"] == "steps")
    assert steps["type"] == "INT" and steps["min"] == 1
    assert main(["nodes", "KSampelr"]) == 1
    assert "did you mean KSampler?" in capsys.readouterr().err


def test_a_command_leaves_the_log_as_it_was(capsys):
    log = logging.getLogger("rapiddraw")
    before = (list(log.handlers), log.level, log.propagate)
    assert main(["nodes", "KSampelr"]) == 1
    capsys.readouterr()
    assert (list(log.handlers), log.level, log.propagate) == before


def test_the_help_of_a_recipe_lists_its_own_settings(capsys):
    from rapiddraw.cli import main

    assert main(["train", "kg", "--help"]) == 0
    shown = capsys.readouterr().out
    assert (
        "margin=2.0\n      distance by which" in shown and "python -m rapiddraw train kg --data" in shown and "latent_channels" not in shown
    )
    assert main(["train", "--help"]) == 0
    assert "margin=2.0" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["-v", "train", "kg", "--set", "dim=x"], ["train", "-v", "kg", "--set", "dim=x"], ["train", "kg", "--set", "dim=x", "--verbose"]],
)
def test_verbose_may_stand_anywhere(arguments, capsys):
    from rapiddraw.cli import main

    assert main(arguments) == 1
    assert "Traceback" in capsys.readouterr().err
