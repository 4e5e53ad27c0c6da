"""Pictures of the shipped graphs for ComfyUI's template browser, drawn by the shipped weights: `workflows/TEMPLATE.jpg`.

    python -m rapiddraw bench thumbnails
    python -m rapiddraw bench thumbnails --only "11 Style dial,style_guidance"

Nothing is measured. Graphs that load a user's own models are drawn with the shipped bundles in their places (:mod:`.stand_ins`), so that
their pictures show what the method does, not what a large model can do. Several pictures of one graph stand side by side.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from . import common
from .checks import Expectation

log = logging.getLogger("rapiddraw")
LONGEST, QUALITY = 768, 85
LEADING = ("large", "star", "red")
"""Size, shape and colour of the fruit in the picture that LoadImage gives."""
SHOWN = {"06 Upscale to a size": "PreviewImage"}
"""The node class whose pictures show a graph, where that is not the one that saves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench thumbnails`."""
    parser.add_argument("--only", metavar="NAMES", help="names of shipped graphs, with commas between them (default: all)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return no expectation: pictures are looked at."""
    return {}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draw the pictures and return the result (see :func:`common.result`)."""
    from ..core.graph.shipped import shipped_graphs, template_name

    names = common.chosen_names(args.only, list(shipped_graphs()), "shipped graph")
    rows = []
    for name in names:
        path = draw(name)
        log.info("thumbnails: %s", path.name if path else f"{name} draws no picture")
        rows.append({"template": template_name(name), "kB": round(path.stat().st_size / 1000) if path else 0})
    command = "python -m rapiddraw bench thumbnails" + (f" --only {json.dumps(args.only)}" if args.only else "")
    return common.result("thumbnails", command, rows, [])


def draw(name: str, folder: Path | None = None) -> Path | None:
    """Run the shipped graph `name` and write its picture beside it, or into `folder`. Returns the file; `None` where it draws nothing."""
    from PIL import Image

    from ..core.files import replacing
    from ..core.graph.execute import execute
    from ..core.graph.formats import read_graph
    from ..core.graph.shipped import shipped_graphs, template_path
    from ..core.paths import using_dirs
    from ..nodes.registry import registry
    from .stand_ins import with_stand_ins

    api = with_stand_ins(name, json.loads(shipped_graphs()[name].read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory(prefix="rapiddraw-thumbnails-") as made:
        places = {kind: Path(made) / kind for kind in ("input", "output", "temp")}
        places["input"].mkdir()
        _leading_picture().save(places["input"] / "example.png")
        with using_dirs(**places):
            outputs = execute(read_graph(api), registry()).outputs
        wanted = SHOWN.get(name)
        found = [
            places[image["type"]] / image["subfolder"] / image["filename"]
            for node_id, shown in outputs.items()
            if wanted is None or api[node_id]["class_type"] == wanted
            for image in shown.get("images", ())
        ]
        saved = [path for path in found if places["output"] in path.parents]
        pictures = [Image.open(path).convert("RGB") for path in (saved if saved and wanted is None else found)]
        if not pictures:
            return None
        path = (folder or template_path(name).parent) / f"{template_path(name).stem}.jpg"
        sheet = _side_by_side(pictures)
        with replacing(path) as temporary:
            sheet.save(temporary, format="JPEG", quality=QUALITY, optimize=True)
    return path


def _leading_picture() -> Any:
    """Return a render of one fruit, for graphs that load a picture."""
    import random

    from PIL import Image

    from ..core.orchard.render import render
    from ..core.orchard.world import random_scene

    size, shape, skin = LEADING
    scene = random_scene(random.Random(3), size=size, shape=shape, skin=skin, position="middle", style="fine", sky="day")  # noqa: S311
    return Image.fromarray(render(scene, 512))


def _side_by_side(pictures: list[Any]) -> Any:
    """Return the pictures in rows of one height, nearly square as a whole, no side longer than LONGEST pixels."""
    from PIL import Image

    columns = 1
    while columns < len(pictures) and columns * pictures[0].width < -(-len(pictures) // columns) * pictures[0].height:
        columns += 1
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture.resize((width, height)), (place % columns * width, place // columns * height))
    sheet.thumbnail((LONGEST, LONGEST))
    return sheet
