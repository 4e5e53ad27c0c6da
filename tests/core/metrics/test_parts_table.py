"""The table of a picture's parts, for one profile and for two."""

from __future__ import annotations

from rapiddraw.core.metrics.parts_table import parts_table, sentence
from rapiddraw.core.metrics.profile import Profile, Row


def profile(loop: float, steps: int, parameters: int) -> Profile:
    rows = (
        Row("text encoder", 8.0, 0.0, 0.0, False, 123_000_000, 246.0, 14_000_000_000),
        Row("U-Net loop", loop, 0.0, 0.9, False, parameters, 1700.0, steps * 401_600_000_000),
        Row("self-attention", loop / 2, 0.0, 0.45, True),
        Row("VAE decoder", 369.0, 0.0, 0.1),
        Row("total", loop + 377.0, 0.0, 1.0),
    )
    return Profile(rows, {"size": "512x512", "steps": steps})


def test_the_slides_own_table() -> None:
    """SnapFusion's profile: 2 x 4 ms, 50 x 1700 ms, 369 ms; 8 x 230 ms for the student."""
    text = parts_table({"SD 1.5": profile(85_000.0, 50, 860_000_000), "ours": profile(1_840.0, 8, 848_000_000)})
    cells = [line.split() for line in text.splitlines()]
    assert cells[0] == ["SD", "1.5", "text", "encoder", "U-Net", "loop", "VAE", "decoder"]
    assert ["latency", "ms", "4.0", "1700.0", "369.0"] in cells and ["latency", "ms", "4.0", "230.0", "369.0"] in cells
    assert ["steps", "2", "50", "1"] in cells and ["steps", "2", "8", "1"] in cells
    assert ["parameters", "M", "123.0", "860.0"] in cells and ["GMAC", "7.00", "401.60"] in cells
    assert ["input", "prompt", "512x512", "512x512"] in cells and ["total", "ms", "8.0", "85000.0", "369.0"] in cells
    assert cells[-1][-4:] == ["38.5", "times", "as", "fast"]


def test_the_bottleneck_is_one_sentence() -> None:
    said = sentence(profile(85_000.0, 50, 1))
    assert said == "The bottleneck is the U-Net loop with 90% of the time, in which self-attention takes 45%."
    assert "times as fast" not in parts_table({"one": profile(10.0, 1, 1)})
    assert sentence(Profile((Row("total", 0.0, 0.0, 1.0),), {})) == "Nothing was measured."
