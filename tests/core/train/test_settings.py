"""Whatever is typed as a setting of a recipe, the answer is one line of RapidDraw's own, before any work."""

from __future__ import annotations

from dataclasses import fields

import pytest
from rapiddraw.core.errors import RapidDrawError
from rapiddraw.core.train import RECIPES, make_recipe, recipe_class
from rapiddraw.core.train.plot import draw_losses

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
