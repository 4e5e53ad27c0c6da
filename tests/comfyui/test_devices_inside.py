"""Picard's window over the devices that ComfyUI keeps a model on."""

from __future__ import annotations

from typing import Any

import pytest

BATCH = 2


@pytest.fixture(scope="module")
def devices(run_inside: Any, weights: Any) -> dict[str, Any]:
    found = run_inside("probe_devices.py", weights)
    if found["devices"] == 1:
        pytest.skip("this ComfyUI keeps a model on one device only")
    return found


def test_each_device_computes_its_share_of_the_window(devices: dict[str, Any]) -> None:
    first, second = devices["calls"]
    assert sum(first) == pytest.approx(sum(second), rel=0.35) and min(len(first), len(second)) > 0
    assert all(size % (2 * BATCH) == 0 for size in first + second), "each call has both prompts of whole states"
    assert max(first + second) == 3 * 2 * BATCH, "half of a window of six states"


def test_the_picture_is_that_of_one_device(devices: dict[str, Any]) -> None:
    assert devices["error"] <= 1e-4 * devices["scale"]


def test_a_guider_with_a_state_is_left_to_comfyui(devices: dict[str, Any]) -> None:
    assert devices["error of a guider that remembers"] <= 1e-4 * devices["scale"]
    assert max(sum(devices["calls of a guider that remembers"], [])) == 6 * BATCH, "one prompt of the whole window on each device"
