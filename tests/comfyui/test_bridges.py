"""The bridges in a real ComfyUI: identities seen from inside (probe_bridge.py), and the guider in a stock sampler over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rapiddraw.tests.comfyui.graphs import TINY, node, picture


@pytest.fixture(scope="module")
def bridges(run_inside: Callable[..., dict[str, Any]], weights: Path) -> dict[str, Any]:
    return run_inside("probe_bridge.py", weights)


def test_strength_0_is_model_a_alone_bit_for_bit_and_calls_no_vae(bridges: dict[str, Any]) -> None:
    assert all(bridges["strength_0"].values()), bridges["strength_0"]
    assert bridges["strength_0_decoded"] == 0


def test_every_sampler_of_comfyui_draws_both(bridges: dict[str, Any]) -> None:
    refused = {name: said for name, said in bridges["samplers"].items() if isinstance(said, str) or not said}
    assert all("cfg_pp" in name and said.startswith("InputError") for name, said in refused.items()), refused
    assert all(shapes == [1, 4, 8, 8, 1, 8, 16, 16] for name, shapes in bridges["samplers"].items() if name not in refused)


def test_two_clones_of_one_network_do_not_mix_their_weights(bridges: dict[str, Any]) -> None:
    assert bridges["clones"] == [True, True] and bridges["clones_differ"] > 1e-3


def test_a_controlnet_steers_the_model_it_is_given_to(bridges: dict[str, Any]) -> None:
    a, b = [4, 8, 8], [8, 16, 16]
    assert bridges["control_on_b"] == [True, [b]] and bridges["control_on_b_is_b_alone"] and bridges["control_moves_a"] > 1e-3
    assert bridges["controls_apart"] == [[a], [b]] and bridges["control_shared"] == [a, b] and bridges["control_left"]


def test_models_that_were_displaced_come_back(bridges: dict[str, Any]) -> None:
    assert bridges["displaced"] and bridges["again_after_unloading"]


def test_cancel_inside_a_step_leaves_both_models_clean(bridges: dict[str, Any]) -> None:
    assert bridges["interrupt"] == "InterruptProcessingException" and bridges["left"] == [True, True] and bridges["after_interrupt"]


PAIR = {
    "model_a": ["L", 0], "vae_a": ["L", 2], "positive_a": ["P", 0], "negative_a": ["N", 0],
    "model_b": ["W", 0], "vae_b": ["W", 2], "positive_b": ["P", 0], "negative_b": ["N", 0],
    "cfg_a": 3.0, "cfg_b": 3.0, "start_percent": 0.0, "end_percent": 1.0, "bridge_every": 1,
}  # fmt: skip


def test_the_guider_in_a_stock_sampler_shows_previews_and_changes_the_picture(server: Any) -> None:
    wide = {**TINY, "unet_name": "wide-unet.safetensors", "vae_name": "wide-vae.safetensors"}
    drawn = []
    for strength in (0.0, 0.5):
        graph = picture(
            W=node("RapidDrawBundleLoader", **wide),
            G=node("RapidDrawLatentSpaceBridgeGuider", **PAIR, strength=strength),
            X=node("RandomNoise", noise_seed=1),
            A=node("KSamplerSelect", sampler_name="euler"),
            B=node("BasicScheduler", model=["L", 0], scheduler="normal", steps=3, denoise=1.0),
            K=node("SamplerCustomAdvanced", noise=["X", 0], guider=["G", 0], sampler=["A", 0], sigmas=["B", 0], latent_image=["E", 0]),
        )
        run = server.run(graph)
        assert (run.status, run.node_errors, run.error) == ("success", {}, ""), server.tail()
        assert run.previews >= 3 and len([data for data in run.of("progress") if data["node"] == "K"]) >= 3
        drawn += server.pictures(run)
    (plain,) = server.pictures(server.run(picture()))
    from rapiddraw.tests.comfyui.test_running import _pixels

    alone, fused, stock = (_pixels([data]) for data in (*drawn, plain))
    assert alone == stock != fused
