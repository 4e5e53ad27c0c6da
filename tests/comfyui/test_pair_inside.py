"""Two models in time, looked at from inside ComfyUI's process; see probe_pair.py."""

from __future__ import annotations

from typing import Any

import pytest

SAME = 2e-5  # the largest relative difference that rounding may make


def test_every_part_of_the_probe_ran(pair_probe: dict[str, Any]) -> None:
    assert [text for name, text in pair_probe.items() if name.startswith("failed")] == []


def test_the_same_model_twice_is_the_stock_ksampler_bit_for_bit(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["samplers"] >= 40 and pair_probe["samplers_that_differ"] == []
    assert pair_probe["ways_that_differ"] == []


def test_one_model_alone_is_the_stock_ksampler_with_it(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["all_structure"] and pair_probe["all_texture"] and pair_probe["own_prompt"]


def test_a_mask_survives_a_fresh_start(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["mask_over_reset"] < SAME


def test_both_hosts_draw_the_same_also_with_different_predictions(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["hosts_eps"] < 10 * SAME and pair_probe["hosts_x0"] < 10 * SAME


def test_other_latent_spaces_are_refused_with_the_way_out(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["refused"].startswith("InputError") and "RapidDrawLatentSpaceBridge" in pair_probe["refused"]


def test_every_level_meets_its_model_also_within_a_batch(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["wrong_levels"] == 0 and min(pair_probe["levels"]) > 50
    assert pair_probe["mixed_levels"] == [[5.0, 9.0], [pytest.approx(0.2), pytest.approx(0.4)]]
    assert pair_probe["mixed_batch"] < SAME


@pytest.mark.parametrize("way", ["guider", "composite"])
def test_the_texture_model_is_loaded_exactly_at_the_switch(pair_probe: dict[str, Any], way: str) -> None:
    assert pair_probe[f"loads {way}"] == [["structure", 0], ["texture", pair_probe["evaluations_above"]]]


def test_a_model_that_is_not_reached_is_never_loaded(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["loads not reached"] == [["structure", 0]]
    assert pair_probe["loads below"] == pair_probe["loads all texture"] == [["texture", 0]]


def test_two_patched_clones_of_one_network_are_like_two_networks(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["clones_differ"] > 1e-3 and pair_probe["clone_all_structure"] and pair_probe["clone_all_texture"]
    ways = ("clone_mixed", "clone_mixed_again", "clone_composite", "clone_there_and_back", "composite_there_and_back")
    assert {way: pair_probe[way] for way in ways if not pair_probe[way] < SAME} == {} and pair_probe["weights_restored"]


def test_the_composite_model_draws_what_the_guider_draws(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["composite"] and pair_probe["sources_unchanged"]


def test_a_patch_of_the_texture_model_acts_in_its_part_only(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["patch_calls_structure_only"] == 0
    assert 0 < pair_probe["patch_calls_guider"] == pair_probe["patch_calls_composite"] < pair_probe["patch_calls_alone"]


def test_hooks_of_either_model(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["hook_matters"] > 1e-3
    assert pair_probe["hooks_identity"] and pair_probe["hooks_of_texture"] and pair_probe["hooks_gone"]


def test_a_controlnet_acts_where_its_architecture_does(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["control_matters"] > 1e-3 and pair_probe["control_identity"] == [True, True]
    assert pair_probe["control_levels"] == [True, 0.0] and pair_probe["control_kept_from_texture"] < SAME
    assert pair_probe["own_controls"] == [True, True] and pair_probe["control_of_texture"] and pair_probe["control_left"]


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stop_in_either_stage_leaves_a_clean_host(pair_probe: dict[str, Any], stage: int) -> None:
    said, no_patcher, options_back, guider_again, drawn_again = pair_probe[f"stopped_{stage}"]
    assert said == "InterruptProcessingException" and no_patcher and options_back and guider_again and drawn_again


def test_style_guidance(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["style_0"] == pair_probe["style_never"] == [True, True], "scale 0 is plain guidance, at its cost"
    assert pair_probe["style_matters"] > 1e-3 and pair_probe["style_cost"] == 1.5
    assert pair_probe["styles_add_up"] < 10 * SAME and pair_probe["style_source"] and pair_probe["style_hosts"] < 10 * SAME


def test_nothing_keeps_a_pair_alive(pair_probe: dict[str, Any]) -> None:
    assert pair_probe["still_alive"] == 0
