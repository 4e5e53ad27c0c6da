"""Whatever is typed as a setting of a recipe, the answer is one line of RapidDraw's own, before any work."""

from __future__ import annotations

from dataclasses import fields

import pytest
from rapiddraw.core import paths
from rapiddraw.core.errors import BundleError, RapidDrawError
from rapiddraw.core.train import RECIPES, make_recipe, recipe_class
from rapiddraw.core.train.plot import draw_losses
from rapiddraw.core.train.settings import example_of, settings_of

TYPED = (
    "nan", "-1", "0", "inf", "1e999", "9" * 30, "", "true", "x", "[1,2", "1,2,x", "()", "\ud800", "\0", "a" * 5000, "/dev/null", "/", "..",
    "1.5", "{}", "null",
)  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_setting_is_read_or_refused_in_one_line(name):
    refused = 0
    for field in fields(recipe_class(name)):
        for text in TYPED:
            try:
                recipe = make_recipe(name, {field.name: text})
                recipe.check()
                recipe.check_files()
            except RapidDrawError as error:
                assert "\n" not in str(error), (field.name, text)
                refused += 1
    assert refused > 5 * len(fields(recipe_class(name)))


@pytest.mark.parametrize(
    "losses", [[], [(1, 1e30)], [(1, 0.0), (2, 0.0)], [(1, 1e30), (2, 1e30)], [(1, -3.0), (2, float("nan"))], [(1, 1e-30)]]
)
def test_any_curve_is_drawn(losses):
    assert draw_losses(losses).size == (960, 540)


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_explained_and_every_recipe_has_an_example(name):
    settings = settings_of(name)
    assert [setting.name for setting in settings] == [field.name for field in fields(recipe_class(name)) if field.init]
    assert [setting.name for setting in settings if not setting.note] == []
    notes = {setting.name: setting for setting in settings}
    assert notes["lr"].note == "peak learning rate" and float(notes["lr"].default) == recipe_class(name)().lr
    command = example_of(name)
    assert command.startswith(f"python -m rapiddraw train {name} ")
    named = [part.partition("=")[0] for part in command.split("--set ")[1:]]
    assert set(named) <= notes.keys()


def test_a_bundle_is_found_by_path_and_by_name_and_the_error_says_where_it_was_looked_for(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "weights_dirs", lambda: [tiny_weights])
    recipe = make_recipe("unet", {"vae": "tiny-vae.safetensors", "text": "tiny-text.safetensors,tiny-text.safetensors"})
    recipe.check_files()
    assert recipe.vae == str(tiny_weights / "tiny-vae.safetensors") and recipe.text.count(str(tiny_weights)) == 2
    (tmp_path / "tiny-vae.safetensors").write_bytes((tiny_weights / "tiny-vae.safetensors").read_bytes())
    nearer = make_recipe("unet", {"vae": "tiny-vae.safetensors"})
    nearer.check_files()
    assert nearer.vae == "tiny-vae.safetensors"  # the working folder comes first
    with pytest.raises(BundleError, match="vae: no such file tiny-vea.safetensors in .*near it there is tiny-vae.*searched: ") as error:
        make_recipe("unet", {"vae": "tiny-vea.safetensors"}).check_files()
    assert str(tiny_weights) in str(error.value) and str(tmp_path) in str(error.value)
    with pytest.raises(BundleError, match="vae: no such file"):
        make_recipe("unet", {"vae": str(tmp_path / "gone.safetensors")}).check_files()
