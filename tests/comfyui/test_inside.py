"""What only a look inside ComfyUI's process can tell; see probe.py."""

from __future__ import annotations

from typing import Any

import pytest

SAME = 2e-5  # the largest relative difference that rounding may make


def test_importing_the_pack_changes_nothing_of_comfyui(probe: dict[str, Any]) -> None:
    assert probe["changed_by_import"] == []


def test_using_the_pack_patches_nothing_of_comfyui(probe: dict[str, Any]) -> None:
    assert probe["changed_by_use"] == []


def test_importing_the_pack_is_light(probe: dict[str, Any]) -> None:
    assert probe["heavy"] == []


def test_everything_we_rely_on_is_there_and_a_missing_one_is_named(probe: dict[str, Any]) -> None:
    assert probe["host"] == "comfy" and probe["missing"] == []
    assert "comfy.sd:NotThere" in probe["missing_message"] and "0.8.0, 0.18.1 and 0.33.0" in probe["missing_message"]


def test_the_objects_are_comfyuis_own(probe: dict[str, Any]) -> None:
    assert probe["classes"] == ["RapidDrawModel", "UNetModel", "VAE", "CLIP"]


@pytest.mark.parametrize("unet", ["tiny", "eps", "x0", "wide"])
def test_both_hosts_compute_the_same(probe: dict[str, Any], unet: str) -> None:
    assert {name: value for name, value in probe["parity"][unet].items() if not value < SAME} == {}


def test_both_hosts_read_texts_alike(probe: dict[str, Any]) -> None:
    texts = probe["texts"]
    assert texts["cond"] < SAME and texts["pooled"] < SAME and texts["links"]
    assert texts["clip_skip"] < SAME


def test_knowledge_at_scale_0_is_no_knowledge_bit_for_bit(probe: dict[str, Any]) -> None:
    assert probe["texts"]["scale_0_is_plain"]
    assert probe["texts"]["scale_1_changes"] > 1e-3 and probe["texts"]["clip_skip_with_knowledge"] > 1e-3


def test_parts_that_do_not_fit_are_refused_with_the_reason(probe: dict[str, Any]) -> None:
    assert probe["misfit"].startswith("BundleError") and "width 64" in probe["misfit"]
    assert probe["misfit_vae"].startswith("BundleError") and "channels 4 against 8" in probe["misfit_vae"]


def test_what_comfyuis_networks_cannot_carry_is_refused(probe: dict[str, Any]) -> None:
    said = probe["refused"]
    assert all(text.startswith("BundleError: tiny-") for text in said.values()), said
    assert "norm_num_groups=16" in said["groups"] and "AttnDownBlock2D" in said["blocks"] and "[32, 80]" in said["width"]
    assert "do not make one network" in said["lie"] and "do not make one network" in said["huge"]


def test_a_patched_clone_leaves_its_source_alone(probe: dict[str, Any]) -> None:
    assert probe["patch_changes"] > 1e-4 and probe["source_unchanged"]


def test_unloading_everything_frees_the_models(probe: dict[str, Any]) -> None:
    assert {"RapidDrawModel", "RapidDrawText", "AutoencoderKL"} <= set(probe["managed"])
    assert probe["after_unload"] == 0 and probe["still_alive"] == 0


def test_every_sampler_on_the_list_can_be_run(probe: dict[str, Any]) -> None:
    assert {"euler", "plms"} <= probe["samplers"].keys()
    assert {name: said for name, said in probe["samplers"].items() if said != "finite"} == {}


@pytest.mark.parametrize("order", ["ours first", "torch's first"])
def test_a_model_that_torch_compiles_too_is_left_to_it(probe: dict[str, Any], order: str) -> None:
    said = probe["twice_compiled"][order]
    assert said["apart"] < 1e-4 and "compiles this model; it is left to that node" in said["report"]


def test_previews_have_a_pixel_for_each_latent_cell(probe: dict[str, Any]) -> None:
    assert probe["preview_size"] == [8, 8]


def test_comfyuis_disable_metadata_is_honoured(probe: dict[str, Any]) -> None:
    assert probe["saves_graphs"] == [True, False]


def test_comfyuis_cancel_stops_our_loops(probe: dict[str, Any]) -> None:
    assert probe["interrupt"] == "InterruptProcessingException"
