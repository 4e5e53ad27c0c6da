"""docs/architecture.md is in step with the code: the drawing of the floors."""

from __future__ import annotations

import re

from rapiddraw.core.paths import pack_root
from rapiddraw.tests.repository.test_floors import FLOORS

PAGE = pack_root() / "docs" / "architecture.md"
DRAWING = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def drawing() -> str:
    """The floors as a Mermaid flowchart: one box a floor, the highest first."""
    lines = ["flowchart TD"]
    floors = [*enumerate(FLOORS)][::-1]
    lines += [f'    f{number}["{"  &nbsp; ".join(rooms)}"]' for number, rooms in floors]
    lines.append("    " + " --> ".join(f"f{number}" for number, _ in floors))
    return "\n".join(lines) + "\n"


def redraw() -> None:
    """Write the drawing into the page again."""
    PAGE.write_text(DRAWING.sub(lambda _: drawing(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def test_the_drawing_shows_the_floors_of_the_floors_test() -> None:
    assert DRAWING.findall(PAGE.read_text(encoding="utf-8")) == [drawing()], (
        "draw it again: python -c 'from rapiddraw.tests.repository.test_architecture import redraw; redraw()'"
    )


def test_contributing_lists_the_floors_from_the_top() -> None:
    text = (pack_root() / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = text.partition("## The floors")[2].partition("Three rules")[0].splitlines()
    listed = [re.findall(r"(?<![\w/])(?:core/)?([a-z]+)/", line.partition("        ")[0]) for line in lines if line.startswith("    ")]
    levels = {room.removeprefix("core."): level for level, rooms in enumerate(FLOORS) for room in rooms}
    floors = [[levels[room] for room in rooms] for rooms in listed]
    assert all(min(above) > max(below) for above, below in zip(floors, floors[1:], strict=False)), "the order is not the floors test's"
    rooms = {
        room
        for room in levels
        if "." not in room and (pack_root() / ("core" if room not in ("cli", "nodes", "benchmarks") else "") / room).is_dir()
    }
    assert {room for rooms in listed for room in rooms} == rooms, "CONTRIBUTING.md leaves a room out, or names one that is gone"
