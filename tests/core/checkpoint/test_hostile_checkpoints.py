"""Checkpoints whose configs and names claim anything at all: refused by errors of ours, and soon."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from rapiddraw.core.bundles.format import load_foreign
from rapiddraw.core.errors import BundleError, RapidDrawError
from rapiddraw.core.host.embedded.checkpoint import load_checkpoint
from rapiddraw.tests import sd_helpers
from safetensors.torch import save_file

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return sd_helpers.write_folder(tmp_path_factory.mktemp("checkpoints") / "sd15")


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("single")
    tokenizer = sd_helpers.write_tokenizer(root / "tokenizer")
    size = len(json.loads((tokenizer / "vocab.json").read_text(encoding="utf-8")))
    return sd_helpers.write_single_file(root / "sd15.safetensors", sd_helpers.narrow_sd15(size), dtype=torch.float16)


def with_config(folder: Path, target: Path, file: str, change: dict) -> Path:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(folder, target)
    config = json.loads((target / file).read_text(encoding="utf-8"))
    (target / file).write_text(json.dumps(config | change), encoding="utf-8")
    return target


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("unet/config.json", {"layers_per_block": 10**9}),
        ("unet/config.json", {"transformer_layers_per_block": [1, 10**9]}),
        ("unet/config.json", {"block_out_channels": [32] * 50_000}),
        ("vae/config.json", {"layers_per_block": 10**9}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}),
        ("text_encoder/config.json", {"num_attention_heads": 10**9}),
        ("text_encoder/config.json", {"num_attention_heads": 0.5}),
        ("text_encoder/config.json", {"num_attention_heads": True}),
        ("text_encoder/config.json", {"hidden_act": [1]}),
        ("scheduler/scheduler_config.json", {"prediction_type": []}),
        ("vae/config.json", {"block_out_channels": 3}),
    ],
)
def test_a_config_that_asks_for_too_much_or_for_nonsense_is_refused_at_once(folder, tmp_path, file, change):
    path = with_config(folder, tmp_path / "copy", file, change)
    started = time.process_time()
    with pytest.raises(BundleError, match="copy"):
        load_checkpoint(path, CPU)
    assert time.process_time() - started < 5


CONFIGS = ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json")
ODD = strategies.one_of(
    strategies.sampled_from([10**9, 10**30, -1, 0, 0.5, float("inf"), True, None, "", "x" * 2000, "\ud800", [10**9] * 3]),
    strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(max_size=8),
        lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(strategies.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=strategies.sampled_from(CONFIGS), place=strategies.integers(0, 60), value=ODD)
def test_any_value_in_a_config_is_read_or_refused_by_an_error_of_ours(folder, file, place, value):
    path = folder / file
    text = path.read_text(encoding="utf-8")
    config = json.loads(text)
    key = [*config, "unknown_key"][place % (len(config) + 1)]
    started = time.process_time()
    path.write_text(json.dumps(config | {key: value}), encoding="utf-8")
    try:
        load_checkpoint(folder, CPU)
    except RapidDrawError as error:
        assert "sd15" in str(error)
    finally:
        path.write_text(text, encoding="utf-8")
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.999999999.0.in_layers.0.weight",
        "model.diffusion_model.input_blocks." + "9" * 5000 + ".0.op.weight",
        "model.diffusion_model.input_blocks.x.0.op.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.999999999.attn2.to_k.weight",
        "model.diffusion_model.middle_block.1.transformer_blocks.999999999.x",
        "first_stage_model.encoder.down.999999999.block.0.conv2.weight",
        "first_stage_model.encoder.down.0.block.999999999.conv2.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.999999999.mlp.fc1.weight",
    ],
)
def test_a_name_that_counts_to_a_thousand_million_is_refused_at_once(single, tmp_path, name):
    shutil.copytree(single.parent / "tokenizer", tmp_path / "tokenizer")
    save_file(load_foreign(single) | {name: torch.zeros(1)}, str(tmp_path / "named.safetensors"))
    started = time.process_time()
    with pytest.raises(BundleError, match="named"):
        load_checkpoint(tmp_path / "named.safetensors", CPU)
    assert time.process_time() - started < 10
