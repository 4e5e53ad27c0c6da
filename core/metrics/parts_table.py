"""Table of a picture's parts as SnapFusion's slides give it: input, parameters, multiply-adds, latency, steps and total of each part.

Two profiles stand side by side, such as those of a whole model and of its student.
"""

from __future__ import annotations

from collections.abc import Mapping

from .profile import LOOPS, Profile, Row

_RUNS = {"text encoder": 2, "VAE decoder": 1, "upscaler": 1}
"""How often a part runs for one picture: the text encoder reads the prompt and the empty one."""


def parts_table(profiles: Mapping[str, Profile]) -> str:
    """Return plain text: a block of rows for each profile, under its name, then where its time goes, and how much faster the last one is
    than the first."""
    lines: list[str] = []
    for name, profile in profiles.items():
        lines += [*_block(name, profile), sentence(profile), ""]
    totals = [profile.rows[-1].median_ms for profile in profiles.values()]
    if len(totals) > 1 and totals[-1] > 0:
        first, *_, last = profiles
        lines.append(
            f"{last} takes {totals[-1]:.1f} ms for a picture and {first} {totals[0]:.1f} ms: {totals[0] / totals[-1]:.1f} times as fast"
        )
    return "\n".join(lines).rstrip()


def sentence(profile: Profile) -> str:
    """Return one sentence that says where the bottleneck is."""
    parts = [row for row in profile.rows[:-1] if not row.inside]
    if not parts:
        return "Nothing was measured."
    worst = max(parts, key=lambda row: row.median_ms)
    said = f"The bottleneck is the {worst.component} with {worst.share:.0%} of the time"
    inside = [row for row in profile.rows if row.inside]
    if inside and worst.component in LOOPS:
        block = max(inside, key=lambda row: row.median_ms)
        said += f", in which {block.component} takes {block.share:.0%}"
    return f"{said}."


def _block(name: str, profile: Profile) -> list[str]:
    parts = [row for row in profile.rows[:-1] if not row.inside]
    runs = [_runs(row, profile) for row in parts]
    size = str(profile.environment["size"])
    rows = {
        "input": ["prompt" if row.component == "text encoder" else size for row in parts],
        "parameters M": ["" if row.parameters is None else f"{row.parameters / 1e6:.1f}" for row in parts],
        "GMAC": [
            "" if row.multiply_adds is None else f"{row.multiply_adds / count / 1e9:.2f}" for row, count in zip(parts, runs, strict=True)
        ],
        "latency ms": [f"{row.median_ms / count:.1f}" for row, count in zip(parts, runs, strict=True)],
        "steps": [str(count) for count in runs],
        "total ms": [f"{row.median_ms:.1f}" for row in parts],
    }
    head = f"{name:<16}" + "".join(f"{row.component:>18}" for row in parts)
    return [head, *(f"{title:<16}" + "".join(f"{cell:>18}" for cell in cells) for title, cells in rows.items())]


def _runs(row: Row, profile: Profile) -> int:
    return int(profile.environment["steps"]) if row.component in LOOPS else _RUNS.get(row.component, 1)
