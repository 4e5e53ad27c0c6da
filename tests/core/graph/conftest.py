"""A few toy node classes: enough to see order, laziness, lists, caching and messages without any model."""

from __future__ import annotations

from typing import Any

import pytest

CALLS: list[str] = []


class Number:
    """A number from a widget; counts how often it runs."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {"default": 1, "min": 0, "max": 100}), "scale": ("FLOAT", {"default": 1.0, "max": 10.0})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "execute"

    def execute(self, value: int, scale: float) -> tuple[Any, ...]:
        CALLS.append(f"number {value}")
        return (int(value * scale),)


class Seeded:
    """A seed (which gets a control entry), a text behind it, and a combo."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"seed": ("INT", {"default": 0, "max": 2**64 - 1}), "text": ("STRING", {"multiline": True, "default": ""})},
            "optional": {"mode": (["fast", "slow"], {"default": "fast"}), "extra": ("INT", {"forceInput": True})},
        }

    RETURN_TYPES = ("INT", "STRING")
    RETURN_NAMES = ("seed", "text")
    FUNCTION = "execute"

    def execute(self, seed: int, text: str, mode: str = "fast", extra: int = 0) -> tuple[Any, ...]:
        CALLS.append(f"seeded {seed} {text} {mode} {extra}")
        return (seed, text)


class Add:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"a": ("INT", {"forceInput": True}), "b": ("INT", {"default": 0})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "execute"

    def execute(self, a: int, b: int) -> tuple[Any, ...]:
        CALLS.append(f"add {a} {b}")
        return (a + b,)


class Count:
    """A list of numbers."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"length": ("INT", {"default": 3})}}

    RETURN_TYPES = ("INT", "INT")
    OUTPUT_IS_LIST = (True, False)
    FUNCTION = "execute"

    def execute(self, length: int) -> tuple[Any, ...]:
        return (list(range(length)), length)


class Gather:
    """Takes a whole list at once."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"numbers": ("INT", {"forceInput": True}), "start": ("INT", {"default": 0})}}

    INPUT_IS_LIST = True
    RETURN_TYPES = ("INT",)
    FUNCTION = "execute"

    def execute(self, numbers: list[int], start: list[int]) -> tuple[Any, ...]:
        return (start[0] + sum(numbers),)


class Switch:
    """Asks for one of its two lazy inputs only."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"first": ("BOOLEAN", {"default": True}), "a": ("INT", {"lazy": True}), "b": ("INT", {"lazy": True})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "execute"

    def check_lazy_status(self, first: bool, a: int | None, b: int | None) -> list[str]:
        wanted, value = ("a", a) if first else ("b", b)
        return [wanted] if value is None else []

    def execute(self, first: bool, a: int | None, b: int | None) -> tuple[Any, ...]:
        return (a if first else b,)


class Show:
    """An output node that sees the hidden inputs."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("*", {})}, "hidden": {"prompt": "PROMPT", "pnginfo": "EXTRA_PNGINFO", "me": "UNIQUE_ID"}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "execute"

    def execute(self, value: Any, prompt: Any, pnginfo: Any, me: Any) -> dict[str, Any]:
        CALLS.append(f"show {value}")
        return {"ui": {"text": [str(value)], "me": [me], "classes": [prompt[me]["class_type"]], "pnginfo": [pnginfo]}}


class Picky:
    """Checks its input itself."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": (["a", "b"], {}), "size": ("INT", {"default": 1, "min": 1})}}

    @classmethod
    def VALIDATE_INPUTS(cls, name: str) -> bool | str:
        return name in "abc" or f"{name} is not one of mine"

    RETURN_TYPES = ("INT",)
    FUNCTION = "execute"

    def execute(self, name: str, size: int) -> tuple[Any, ...]:
        return (size,)


class Fails:
    DISPLAY_NAME = "Fails Always"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {"forceInput": True})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "execute"

    def execute(self, value: int) -> tuple[Any, ...]:
        raise ZeroDivisionError("no")


class Watched:
    """Runs again whenever STAMP changes."""

    STAMP: Any = 0

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls) -> Any:
        if cls.STAMP == "broken":
            raise OSError("gone")
        return cls.STAMP

    RETURN_TYPES = ("INT",)
    FUNCTION = "execute"

    def execute(self) -> tuple[Any, ...]:
        CALLS.append("watched")
        return (7,)


class Upload:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": (["x.png", "y.png"], {"image_upload": True}), "size": ("INT", {"default": 4})}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "execute"

    def execute(self, image: str, size: int) -> tuple[Any, ...]:
        return (f"{image}@{size}",)


CLASSES = (Number, Seeded, Add, Count, Gather, Switch, Show, Picky, Fails, Watched, Upload)


@pytest.fixture
def registry() -> dict[str, type]:
    return {item.__name__: item for item in CLASSES}


@pytest.fixture
def calls() -> list[str]:
    CALLS.clear()
    Watched.STAMP = 0
    return CALLS


@pytest.fixture
def make():
    """`make(Class, name=value, ...)`: one node of the API format; `title` becomes its title."""

    def node(class_type: str, title: str = "", **inputs: Any) -> dict[str, Any]:
        made: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
        if title:
            made["_meta"] = {"title": title}
        return made

    return node
