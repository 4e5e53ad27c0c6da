"""A long life in one ComfyUI: same seed, cancel, errors, unloading, many runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rapiddraw.tests.comfyui.graphs import Graph, defaults, node, picture

WARM, RUNS, MAX_GROWTH = 8, 50, 80 * 2**20


def test_the_same_seed_is_the_same_picture_and_another_is_another(server: Any) -> None:
    first = server.pictures(server.run(picture(5)))
    server.forget()
    again = server.pictures(server.run(picture(5)))
    other = server.pictures(server.run(picture(6)))
    assert len(first) == 1 and _pixels(first) == _pixels(again) != _pixels(other)


def test_a_cancelled_run_stops_and_does_not_poison_the_next(server: Any) -> None:
    before = server.pictures(server.run(picture(7)))
    cancelled = server.run(picture(8, steps=400), cancel_at=3)
    assert cancelled.of("execution_interrupted") and not cancelled.of("execution_success") and not cancelled.error
    server.forget()
    assert _pixels(server.pictures(server.run(picture(7)))) == _pixels(before)


def test_a_cancel_between_tiles_does_not_poison_the_next_run(server: Any) -> None:
    Image.effect_noise((96, 96), 80).convert("RGB").save(server.base / "input" / "noise.png")

    def upscaled(tile: int) -> Graph:
        return {
            "U": node("RapidDrawESRGANLoader", model_name="tiny-esrgan.safetensors"),
            "I": node("LoadImage", image="noise.png"),
            "B": node("RepeatImageBatch", image=["I", 0], amount=1 if tile > 32 else 24),
            "X": node("RapidDrawESRGANUpscale", upscale_model=["U", 0], image=["B", 0], factor=2.0, long_side=0, tile=tile, overlap=8),
            "S": node("SaveImage", images=["X", 0], filename_prefix="tiles"),
        }

    before, since = server.pictures(server.run(upscaled(64))), len(server.logged())
    run = server.run(upscaled(32), cancel_at=2)
    assert run.of("execution_interrupted") and not run.error and "S" not in run.outputs and len(run.of("progress")) < 12
    told = server.logged(since)
    assert sum("Processing interrupted" in line for line in told) == 1 and not any("Traceback" in line for line in told)
    server.forget()
    assert _pixels(server.pictures(server.run(upscaled(64)))) == _pixels(before)


def test_two_prompts_after_an_error_are_drawn(server: Any) -> None:
    wrong = picture(9, V=node("RapidDrawBundleLoader", unet_name="wide-unet.safetensors", text_name="tiny-text.safetensors",
                              vae_name="wide-vae.safetensors"))  # fmt: skip
    wrong["D"]["inputs"]["vae"] = ["V", 2]
    failed = server.run(wrong)
    assert failed.status == "error" and failed.error
    for seed in (10, 11):
        assert server.run(picture(seed)).status == "success"


def test_a_misfit_is_told_in_our_words(server: Any) -> None:
    graph = picture(12)
    graph["L"]["inputs"]["vae_name"] = "wide-vae.safetensors"
    run = server.run(graph)
    assert run.status == "error" and "makes another latent space" in run.error


def test_a_name_that_leaves_its_folder_is_refused(server: Any) -> None:
    graph = picture(13)
    graph["L"]["inputs"]["unet_name"] = "../tiny-unet.safetensors"
    run = server.run(graph)
    assert not run.prompt_id and "value_not_in_list" in str(run.node_errors)


@pytest.mark.parametrize(
    ("class_type", "widget"),
    [
        ("RapidDrawOrchardDataset", "folder"),
        ("RapidDrawFilterDataset", "folder"),
        ("RapidDrawFilterDataset", "out"),
        ("RapidDrawRecaptionDataset", "folder"),
        ("RapidDrawRecaptionDataset", "out"),
        ("RapidDrawDistillUNet", "folder"),
        ("RapidDrawDistillUNet", "filename"),
        ("RapidDrawFitKnowledgeProjection", "filename"),
        ("RapidDrawSaveLowRankUNet", "filename"),
        ("RapidDrawSaveMarkedImage", "filename_prefix"),
    ],
)
def test_a_text_never_becomes_a_path_outside(server: Any, class_type: str, widget: str) -> None:
    schema = server.get(f"/object_info/{class_type}")[class_type]
    graph = picture(K=node("RapidDrawKnowledgeGraphLoader", kg_name="tiny-kg.safetensors"), O=node("EmptyImage", width=64, height=64,
                    batch_size=1, color=0))  # fmt: skip
    sources = {"MODEL": ["L", 0], "CLIP": ["L", 1], "VAE": ["L", 2], "KNOWLEDGE_GRAPH": ["K", 0], "IMAGE": ["O", 0]}
    linked = {name: sources[spec[0]] for name, spec in schema["input"]["required"].items() if str(spec[0]) in sources}
    graph = {name: graph[name] for name in "LKO"}
    graph["X"] = node(class_type, **defaults(schema), **linked)
    outside = server.base / "outside"
    for name in (f"../{outside.name}/made", f"{outside}/made", "~/made", "a/../../../outside/made"):
        run = server.run({**graph, "X": {**graph["X"], "inputs": {**graph["X"]["inputs"], widget: name}}, "T": _end(schema)})
        assert run.status == "error" and run.error.startswith(class_type), (run.node_errors, run.status)
        assert "name" in run.error or "folder" in run.error
    assert not outside.exists() and not (Path.home() / "made").exists()


def test_unloading_everything_and_drawing_again(server: Any) -> None:
    before = server.pictures(server.run(picture(14)))
    server.forget()
    run = server.run(picture(14))
    assert len(run.of("execution_cached")[0]["nodes"]) == 0 and _pixels(server.pictures(run)) == _pixels(before)


def test_many_runs_do_not_grow(server: Any) -> None:
    for seed in range(100, 100 + WARM):
        assert server.run(picture(seed, steps=1)).status == "success"
    before = server.memory()
    for seed in range(200, 200 + RUNS):
        assert server.run(picture(seed, steps=1)).status == "success"
    assert server.memory() - before < MAX_GROWTH


def _end(schema: dict[str, Any]) -> dict[str, Any]:
    """A node that makes the one before it run."""
    return node("PreviewAny", source=["X", 0]) if schema["output"] else node("PreviewImage", images=["O", 0])


def _pixels(pictures: list[bytes]) -> list[bytes]:
    return [Image.open(io.BytesIO(data)).tobytes() for data in pictures]
