"""Distillation of other families inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inside import FOLDER, load_pack, relative, write

# isort: split
import comfy.ldm.cosmos.predict2 as predict2
import families
import torch
from families import Texts, drawn

import nodes

found: dict[str, Any] = {}
OUT = FOLDER / "output" / "rapiddraw"
SETTINGS = {
    "folder": "fruit", "filename": "student", "steps": 20, "batch_size": 4, "lr": 3e-4, "size": 64, "mode": "rank", "value": 4,
    "weighting": "none", "feature_weight": 0.0, "task_weight": 0.0, "seed": 0, "save_every": 500, "resume": False,
}  # fmt: skip


def run() -> None:
    ours = load_pack()
    node = nodes.NODE_CLASS_MAPPINGS["RapidDrawDistillUNet"]
    host = ours("core.host").current()
    ours("core.orchard.dataset").write_dataset("train", 4, 64, FOLDER / "input" / "fruit")
    factorize = ours("core.lowrank.factorize")
    factored: list[int] = []
    plain = factorize.put_factors

    def counted(*args: Any) -> Any:
        factored.append(1)
        return plain(*args)

    factorize.put_factors = counted

    def distilled(name: str, **changes: Any) -> Any:
        return node().execute(families.model(name), Texts(name), families.vae(name), **{**SETTINGS, **changes})["result"]

    for name in ("Flux", "Z-Image", "Qwen-Image", "Wan 2.2", "SD 3"):
        if name not in families.available():
            continue
        student, report, _ = distilled(name)
        log = [json.loads(line) for line in (OUT / "student-run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        again = host.model.load(OUT / "student.safetensors")
        found[name] = {
            "noise": [line["noise"] for line in log], "reloaded": relative(drawn(again, name), drawn(student, name)),
            "finite": bool(drawn(student, name).isfinite().all()), "report": report,
        }  # fmt: skip
    refused = {
        "SD 1.5 inpainting": {}, "Wan 2.2 image": {}, "Cosmos Predict 2": {}, "Flux": {"feature_weight": 0.1},
    }  # fmt: skip
    # ComfyUI 0.33.0 turns and norms the queries and keys of Cosmos by one kernel, which autograd does not know.
    found["fused kernel"] = "rms_rope_split_half" in Path(predict2.__file__).read_text(encoding="utf-8")
    found["refused"] = {}
    for name, changes in refused.items():
        factored.clear()
        try:
            distilled(name, **changes)
            said = "it ran"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        found["refused"][name] = [said, len(factored)]
    profile = ours("core.metrics.profile")
    found["profile"] = {}
    for name in ("Flux", "Wan 2.2"):
        settings = profile.Settings(128, 128, steps=1, cfg=1.0, runs=1, warmup=0)
        said = profile.profile_pipeline(families.model(name), Texts(name), families.vae(name), None, settings)
        found["profile"][name] = {row.component: [row.inside, row.parameters, row.multiply_adds] for row in said.rows}
    write(found)


with torch.inference_mode():
    run()
