"""Two text encoders, a resolution's index and attention's entropy in ComfyUI, against the embedded host; see probe_conditions.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SAME = 2e-3  # two implementations of one network, three steps, random weights


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory, run_inside: Callable[[str, Path], dict[str, Any]]) -> dict[str, Any]:
    from rapiddraw.core.bundles.format import save_bundle
    from rapiddraw.core.bundles.load import difference, load_bundle
    from rapiddraw.tests.helpers import write_text, write_unet

    folder = tmp_path_factory.mktemp("conditions")
    write_text(folder / "zh-text.safetensors", seed=4, width=16)
    write_text(folder / "en-text.safetensors", seed=5, width=16)
    write_text(folder / "tiny-text.safetensors")
    base = load_bundle(write_unet(folder / "tiny-unet.safetensors"), "unet")
    write_unet(folder / "index-unet.safetensors", class_embed_type="projection", projection_class_embeddings_input_dim=32 + 256)
    changed = {key: tensor + 0.1 * torch.sign(tensor) if ".attn2." in key else tensor for key, tensor in base.tensors.items()}
    own, info = difference(changed, base.info, folder / "tiny-unet.safetensors")
    save_bundle(folder / "delta-unet.safetensors", own, info)
    return run_inside("probe_conditions.py", folder)


def test_two_encoders_give_the_same_in_both_hosts(conditions: dict[str, Any]) -> None:
    assert conditions["bilingual_tokens"] < SAME and conditions["bilingual_pooled"] < SAME
    assert conditions["bilingual_picture"] < SAME  # with a U-Net whose bundle holds only what differs from another


def test_a_width_that_does_not_fit_is_refused_with_numbers(conditions: dict[str, Any]) -> None:
    for host in ("comfy", "embedded"):
        assert (
            conditions[f"width_{host}"].startswith("InputError")
            and "the tokens have 16 = 16 features, the model attends to tokens of 32" in (conditions[f"width_{host}"])
        )


def test_the_index_reaches_the_unet_in_both_hosts(conditions: dict[str, Any]) -> None:
    assert conditions["takes_comfy"] == conditions["takes_embedded"] == [True, False]
    assert all(value < SAME for value in conditions["parity"].values()), conditions["parity"]
    assert conditions["indices_differ"] > 1e-2 and conditions["default_is_2"] < 1e-6  # the latent is twice as wide as high


def test_a_model_without_it_is_left_alone_and_the_log_says_so(conditions: dict[str, Any]) -> None:
    assert conditions["ignored_comfy"] == conditions["ignored_embedded"] == [True, True]


def test_saved_and_reloaded_it_still_takes_the_index(conditions: dict[str, Any]) -> None:
    assert conditions["saved"] < 2e-2 and conditions["saved_in_embedded"] < 2e-2 and conditions["evaluates"]


def test_entropy_is_scaled_at_other_sizes_alone(conditions: dict[str, Any]) -> None:
    for host in ("comfy", "embedded"):
        assert conditions[f"entropy_same_{host}"] and conditions[f"entropy_stacks_{host}"] < SAME
    assert conditions["entropy_changes"] > 1e-3
