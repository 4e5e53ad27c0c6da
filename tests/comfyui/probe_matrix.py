"""The matrix of nodes and families inside a ComfyUI process; started as inside.py says. WORDS: names of rows to run (all by default).

For each row of the modules in `PARTS` and each family of families.py it writes one of

    works
    refused: MESSAGE      an error of ours, of one line, before the network has been evaluated
    crash: ...            another error, a message of several lines, or work before the refusal
    wrong: ...            it ran, but an identity does not hold
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from inside import FOLDER, MODELS, WORDS, load_pack, write

# isort: split
import families
import matrix
import torch

import nodes

PARTS = ("matrix_guidance", "matrix_bridge", "matrix_students", "matrix_conditions", "matrix_sampling", "matrix_small", "matrix_training")
"""Modules that enter rows, in the order of docs/families.md."""


def verdict(case: matrix.Case, row: Any, error_class: type[Exception]) -> str:
    """What one cell of the matrix is."""
    evaluations: list[int] = []
    handle = case.model.model.diffusion_model.register_forward_pre_hook(lambda *_: evaluations.append(1))
    try:
        row(case)
    except matrix.Wrong as error:
        return f"wrong: {error}"
    except error_class as error:
        message = str(error)
        if "\n" in message:
            return f"crash: a refusal of {message.count(chr(10)) + 1} lines: {message[:160]!r}"
        return f"crash: {len(evaluations)} evaluations before the refusal: {message}" if evaluations else f"refused: {message}"
    except Exception as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{where.tb_lineno}" if where else ""
        return f"crash: {type(error).__name__} in {place}: {str(error)[:160]}"
    finally:
        handle.remove()
    return "works"


def takes_a_model(node: Any) -> bool:
    """Whether a node has an input that a MODEL can be linked to."""
    return any("MODEL" in str(spec[0]).split(",") for inputs in node.INPUT_TYPES().values() for spec in inputs.values())


def run() -> None:
    ours = load_pack()
    for part in PARTS:
        importlib.import_module(part)
    root = ours("core.errors").RapidDrawError
    ours("core.orchard.dataset").write_dataset("train", 2, 128, FOLDER / "input" / "fruit")
    ours("core.orchard.dataset").write_dataset("train", 3, 128, FOLDER / "input" / "fruits")
    found: dict[str, dict[str, str]] = {}
    with torch.inference_mode():
        for name in families.available():
            case = matrix.Case(name, ours, MODELS)
            for key, row in matrix.ROWS.items():
                if WORDS and key not in WORDS:
                    continue
                found.setdefault(key, {})[name] = verdict(case, row, root)
                if not found[key][name].startswith(("works", "refused")):
                    sys.stderr.write(f"{key} x {name}: {found[key][name]}\n")
    unasked = sorted(
        name.removeprefix("RapidDraw")
        for name, node in nodes.NODE_CLASS_MAPPINGS.items()
        if name.startswith("RapidDraw") and takes_a_model(node) and not any(key.split()[0] == name[9:] for key in matrix.ROWS)
    )
    lacks = [name for name in families.FAMILIES if name not in families.available()]
    unets = [name for name in families.FAMILIES if families.FAMILIES[name].unet_blocks]
    write({"matrix": found, "rows": list(matrix.ROWS), "lacks": lacks, "unasked": unasked, "unets": unets})


run()
