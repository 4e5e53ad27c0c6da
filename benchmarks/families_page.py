"""Page docs/families.md: which node works with which family of models, from the matrix that `bench families` measures."""

from __future__ import annotations

from typing import Any

from ..nodes.registry import registry

HEADER = """# Nodes and families of models

Written by `python -m rapiddraw bench families` from what nodes did with small models of {count} families inside ComfyUI; do not edit.
`tests/comfyui/test_matrix.py` holds the page to every cell. A node that does not serve a family says so in one line before any work.

- **any model**: works with every family of the table below.
- **U-Nets only**: works with U-Nets of Stable Diffusion's kind ({unets}), and refuses the others.
- Else the families are named with which the node does not work. Newer versions of ComfyUI serve some that older ones do not.

| node | serves | does not serve |
|---|---|---|
"""
TABLE = """
## Every cell

`+` works, `-` is refused in one line{open}. The columns are, from left to right: {families}.

"""
REMARKS = {"KroneckerAdapterLoader": " (asked with an adapter of a U-Net; each adapter serves the models it was trained for)"}
LETTERS = {"works": "+", "refused": "-", "wrong": "?", "crash": "!"}


def page(known: dict[str, Any]) -> str:
    """Return the page for what tests/data/families.json holds: `matrix` (row to family to works, refused, wrong or crash) and `unets`."""
    matrix, unets = known["matrix"], known["unets"]
    families: list[str] = max((list(cells) for cells in matrix.values()), key=len)
    lines = [HEADER.format(count=len(families), unets=", ".join(unets))]
    for row, cells in matrix.items():
        serves, not_served = verdict(cells, unets)
        lines.append(f"| {title(row)} | {serves}{REMARKS.get(row, '')} | {not_served} |\n")
    seen = {cell for cells in matrix.values() for cell in cells.values()}
    words = {"wrong": "`?` has a known fault", "crash": "`!` stops with an error"}
    still = "".join(f", {text}" for kind, text in words.items() if kind in seen)
    lines.append(TABLE.format(open=still, families=", ".join(families)))
    wide = max(map(len, map(title, matrix)))
    lines += [f"    {title(row):<{wide}}  {''.join(LETTERS[cells[family]] for family in families)}\n" for row, cells in matrix.items()]
    return "".join(lines)


def verdict(cells: dict[str, str], unets: list[str]) -> tuple[str, str]:
    """Return (what a node serves, the families that it does not serve) in words."""
    works = [family for family, cell in cells.items() if cell == "works"]
    others = [family for family, cell in cells.items() if cell != "works"]
    if not others:
        return "any model", ""
    if works and set(works) <= set(unets):
        missing = [family for family in unets if family not in works]
        return "U-Nets only", f"all others{', ' if missing else ''}{', '.join(missing)}"
    if len(works) < len(others):
        return ", ".join(works) or "none of these", "all others"
    return "any model but those at the right", ", ".join(others)


def title(row: str) -> str:
    """Return a row's name: the node's display name, and what of the node was asked where it is one of several things."""
    node, _, part = row.partition(" ")
    name = registry()[f"RapidDraw{node}"].DISPLAY_NAME
    return f"{name}, {part}" if part else name
