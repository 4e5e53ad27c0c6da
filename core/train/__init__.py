"""Training: one loop (`loop.py`) and one file for each recipe. Recipes are found by name and imported only when they are used."""

from __future__ import annotations

import difflib
import importlib
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError

if TYPE_CHECKING:
    from .recipe import Recipe

Settings = TypeVar("Settings")
RECIPES = {
    "judge": ".recipes.judge:JudgeRecipe",
    "vae": ".recipes.vae:VaeRecipe",
    "kg": ".recipes.kg:KgRecipe",
    "text": ".recipes.text:TextRecipe",
    "unet": ".recipes.unet:UnetRecipe",
    "distill": ".recipes.distill:DistillRecipe",
    "few_step": ".recipes.few_step:FewStepRecipe",
    "control": ".recipes.control:ControlRecipe",
    "esrgan": ".recipes.esrgan:EsrganRecipe",
    "kronecker": ".recipes.kronecker:KroneckerRecipe",
    "image_tokens": ".recipes.image_tokens:ImageTokensRecipe",
    "segmenter": ".recipes.segmenter:SegmenterRecipe",
    "prompt": ".recipes.prompt:PromptRecipe",
    "raft": ".recipes.raft:RaftRecipe",
}


def recipe_class(name: str) -> type[Recipe]:
    """Return the recipe registered as `name`. Raises :class:`InputError` for an unknown name; the message lists the known ones."""
    if name not in RECIPES:
        raise InputError(f"no recipe named {name!r}; the recipes are {', '.join(sorted(RECIPES))}")
    module, attribute = RECIPES[name].split(":")
    return getattr(importlib.import_module(module, __package__), attribute)


def make_recipe(name: str, settings: dict[str, Any] | None = None) -> Recipe:
    """Return a recipe with its defaults, changed by `settings`; a value given as text is read as the type of the default.

    Raises :class:`InputError` for an unknown setting (the message names the nearest ones) or a value of the wrong type.
    """
    return configured(recipe_class(name), name, settings or {})


def configured(cls: type[Settings], name: str, settings: dict[str, Any]) -> Settings:
    """Return a dataclass `cls` of settings, such as a recipe, as :func:`make_recipe` does; messages call it the recipe `name`."""
    known = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]  # any dataclass
    default = cls()
    values = {}
    for key, value in settings.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4)
            raise InputError(f"recipe {name!r} has no setting {key!r}; {'did you mean ' + ', '.join(near) if near else 'see --help'}")
        values[key] = _read(key, value, getattr(default, key)) if isinstance(value, str) else value
    return cls(**values)


def _read(key: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, str):
            return text
        if isinstance(default, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.strip().lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
        if isinstance(default, tuple | list):
            element = default[0] if default else ""
            return type(default)(_read(key, part.strip(), element) for part in text.strip("()[] ").split(",") if part.strip())
        return json.loads(text)
    except (KeyError, ValueError) as error:
        raise InputError(f"{key}={text!r}: expected a value of type {type(default).__name__}, such as {default!r}") from error
