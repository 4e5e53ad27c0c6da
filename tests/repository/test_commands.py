"""Every command in a document is understood by the program, and is run by a test or says why not."""

from __future__ import annotations

import re

import pytest
from rapiddraw.cli import _parser, _verbose_first
from rapiddraw.core.paths import pack_root
from rapiddraw.tests.commands_in_documents import ALL, Command, commands

ROOT = pack_root()
MADE_UP = re.compile(r"\b(train line|bench (coin|NAME)|train RECIPE)\b")
"""What CONTRIBUTING.md makes up, and places for a name."""
SHOWN_IN_README = ("make demo", "make test", "python -m pip install .", "rapiddraw run text_to_image --output out")
OURS = [command for command in ALL if command.arguments is not None and not MADE_UP.search(command.text)]


@pytest.mark.parametrize("command", OURS, ids=lambda command: f"{command.page}: {command.text}"[:90])
def test_the_program_understands_the_command(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _verbose_first(command.arguments or [])
    if "..." in arguments:
        arguments = arguments[: arguments.index("...")]
    try:
        parsed = _parser(arguments).parse_args(arguments)
    except SystemExit as stop:
        said = capsys.readouterr().err
        only_named = command.is_inline and "arguments are required" in said
        assert stop.code == 0 or only_named, f"{command.page}: {command.text}\n{said}"
        return
    for entry in getattr(parsed, "set", None) or []:
        assert "=" in entry, f"{command.page}: --set {entry}"


def test_settings_that_commands_set_exist() -> None:
    from rapiddraw.core.train import RECIPES, recipe_class

    for command in OURS:
        arguments = command.arguments or []
        if arguments[:1] != ["train"] or arguments[1] not in RECIPES:
            continue
        recipe = recipe_class(arguments[1])()
        for name in re.findall(r"--set (\w+)=", command.text):
            assert hasattr(recipe, name), f"{command.page}: {arguments[1]} has no setting {name}"


def test_a_command_of_another_program_is_run_or_says_why_not() -> None:
    """What is run of the other programs is run by continuous integration (.ci/run, and the job docs)."""
    in_ci = ("make test", "make docs")
    left = [command for command in ALL if command.arguments is None and not command.why_not and not command.text.startswith(in_ci)]
    told = "\n".join(f"{command.page}: {command.text}" for command in left)
    assert not left, f"write <!-- not run: why --> above the block:\n{told}"


def test_the_readme_shows_both_ways_to_a_first_picture() -> None:
    shown = [" ".join(command.words) for command in commands(ROOT / "README.md")]
    assert not [one for one in SHOWN_IN_README if one not in shown]


def test_commands_are_found_with_their_marks(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "Words.\n\n<!-- not run: slow -->\n\n    A=1 python -m rapiddraw run a \\\n        --seed 3   # why\n    rapiddraw serve &\n\n"
        'Then\n\n    SAME="--set a=1 --data d"\n    python -m rapiddraw train unet $SAME\n    not a command\n\n'
        "or `python -m rapiddraw nodes`.\n"
    )
    page = ROOT / "docs" / "page.md"
    monkeypatch.setattr(type(page), "read_text", lambda self, encoding: text)
    found = list(commands(page))
    assert [(one.arguments, one.why_not, one.is_inline) for one in found] == [
        (["run", "a", "--seed", "3"], "slow", False),
        (["serve"], "slow", False),
        (["train", "unet", "--set", "a=1", "--data", "d"], "", False),
        (["nodes"], "", True),
    ]
