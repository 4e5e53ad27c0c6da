"""docs/architecture.md is in step with the code: the drawing of the floors, and the index from the papers to functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from rapiddraw.core.paths import pack_root
from rapiddraw.tests.repository.test_floors import FLOORS

ROOT = pack_root()
PAGE = ROOT / "docs" / "architecture.md"
DRAWING = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def drawing() -> str:
    """The floors as a Mermaid flowchart: one box a floor, the highest first."""
    lines = ["flowchart TD"]
    floors = [*enumerate(FLOORS)][::-1]
    lines += [f'    f{number}["{", ".join(rooms)}"]' for number, rooms in floors]
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
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = text.partition("## The floors")[2].partition("Three rules")[0].splitlines()
    listed = [re.findall(r"(?<![\w/])(?:core/)?([a-z]+)/", line.partition("        ")[0]) for line in lines if line.startswith("    ")]
    levels = {room.removeprefix("core."): level for level, rooms in enumerate(FLOORS) for room in rooms}
    floors = [[levels[room] for room in rooms] for rooms in listed]
    assert all(min(above) > max(below) for above, below in zip(floors, floors[1:], strict=False)), "the order is not the floors test's"
    rooms = {
        room
        for room in levels
        if "." not in room and (ROOT / ("core" if room not in ("api", "cli", "nodes", "serve", "benchmarks") else "") / room).is_dir()
    }
    assert {room for rooms in listed for room in rooms} == rooms, "CONTRIBUTING.md leaves a room out, or names one that is gone"


PAPERS = {
    "Rapid Diffusion": "2 3 3.1 3.1.1 3.1.2 3.1.3 3.2 3.2.1 3.2.2 4 4.1 4.2 4.3 4.4 4.5 4.6 5 5.1 5.2 A B C C.1",
    "Survey of acceleration techniques": "1 2 3 3.1 3.2 3.3",
    "PanGu-Draw": "1 2 3 4 4.1 4.2 5 5.1 5.2 5.3 6 7 8 9 9.1 9.2 10",
    "ELR-Diffusion": "1 2 2.1 2.2 2.2.1 2.2.2 2.3 2.3.1 2.3.2 2.4 3 3.1 3.2 3.3 3.4 3.5 3.6 4 5",
    "Efficient mobile text-to-image": "",
}
"""Each paper's sections, as it numbers them. The last is a talk."""
TARGET = re.compile(r"`((?:core|nodes|cli|benchmarks)/[\w/]+\.py):([\w.]+)`")


def defined_in(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    """The qualified names of the functions and classes in a module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield f"{prefix}{node.name}"
            yield from defined_in(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize("target", sorted({f"{file}:{name}" for file, name in TARGET.findall(PAGE.read_text("utf-8"))}))
def test_a_function_that_the_page_names_exists(target: str) -> None:
    file, name = target.split(":")
    assert (ROOT / file).is_file(), f"docs/architecture.md names {file}, which is gone: follow it to its new place"
    names = set(defined_in(ast.parse((ROOT / file).read_text(encoding="utf-8"))))
    assert name in names, f"docs/architecture.md names {target}, which is gone: follow it to its new name"


def rows_of(paper: str) -> list[str]:
    """The rows of a paper's index."""
    part = PAGE.read_text(encoding="utf-8").partition(f"\n### {paper}")[2].partition("\n### ")[0]
    return [line for line in part.splitlines() if TARGET.search(line)]


@pytest.mark.parametrize("paper", PAPERS)
def test_the_index_of_a_paper_cites_sections_that_it_has(paper: str) -> None:
    assert rows_of(paper)
    for row in rows_of(paper) if PAPERS[paper] else ():
        section = row.split("|")[1].strip().split(",")[0].split(";")[0]
        assert section in PAPERS[paper].split(), f"{paper} has no section {section}"


def test_every_module_that_cites_one_of_the_papers_is_in_the_index() -> None:
    listed = {file for paper in PAPERS for row in rows_of(paper) for file, _ in TARGET.findall(row)}
    cited = re.compile("Rapid Diffusion|PanGu-Draw|ELR-Diffusion|SnapFusion|MobileDiffusion")
    for path in sorted((ROOT / "core").rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        says = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
        cites = cited.search(says) and path.name != "__init__.py"
        assert not cites or file in listed, f"docs/architecture.md: no row of an index names {file}"


def test_a_module_cites_the_sections_that_the_index_gives_it() -> None:
    """A module may name a part of the index's section, or the section that holds it."""
    wrong = []
    for paper in ("Rapid Diffusion", "PanGu-Draw", "ELR-Diffusion"):
        sections: dict[str, set[str]] = {}
        for row in rows_of(paper):
            for file, _ in TARGET.findall(row):
                sections.setdefault(file, set()).add(re.split(r"[,;]", row.split("|")[1].strip())[0])
        for file, known in sections.items():
            says = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or ""
            for cited in re.findall(rf"{paper}[^.|;]{{0,30}}section ([\dA-C][\d.]*)", says):
                section = cited.rstrip(".")
                if not any(one.startswith(section) or section.startswith(one) for one in known):
                    wrong.append(f"{file} cites section {section} of {paper}, docs/architecture.md section {', '.join(sorted(known))}")
    assert not wrong, "\n".join(wrong)
