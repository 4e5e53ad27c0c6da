"""bench no_graph on tiny models: a start that cannot read, two trainings that differ in the graph alone, and a row for each cell."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from rapiddraw.benchmarks import no_graph, retrieval
from rapiddraw.benchmarks.shipped import shipped
from rapiddraw.core.bundles.format import read_info, tensor_names
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.networks import network_of
from rapiddraw.core.orchard.dataset import write_dataset


def options(folder: Path, **changes) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    no_graph.add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), "folder": folder, "count": 2, "train_steps": 2, **changes})


def test_the_start_draws_the_same_whatever_it_is_told(orchard, tmp_path):
    out = no_graph.cannot_read(tmp_path / "start-0-unet.safetensors", 0)
    start, first = (network_of(UNet2DConditionModel, load_bundle(path, "unet")) for path in (out, shipped("unet", "unet")))
    torch.manual_seed(0)
    x, t, tokens = torch.randn(2, start.config.in_channels, 4, 4), torch.tensor([3, 800]), torch.randn(2, 5, 1).expand(2, 5, 32)
    tokens = tokens[..., : start.config.cross_attention_dim]
    with torch.no_grad():
        drawn, other = (start(x, t, encoder_hidden_states=given, return_dict=False)[0] for given in (tokens, -tokens))
        assert torch.equal(drawn, other) and not torch.allclose(*(first(x, t, given, return_dict=False)[0] for given in (tokens, -tokens)))
    changed = {name for name, value in start.state_dict().items() if not torch.equal(value, first.state_dict()[name])}
    assert changed and all(".attn2." in name for name in changed)
    when = out.stat().st_mtime_ns
    assert no_graph.cannot_read(out, 0).stat().st_mtime_ns == when
    assert no_graph.cannot_read(out, 1).stat().st_mtime_ns != when and read_info(out).provenance["seed"] == 1


def test_two_trainings_differ_in_the_graph_alone(orchard, tmp_path, monkeypatch):
    write_dataset("train", 4, 64, tmp_path / "data")
    monkeypatch.setattr(no_graph, "SETTINGS", {**no_graph.SETTINGS, "batch_size": 2, "size": 32, "precision": "no"})
    args = options(tmp_path / "kept", data=str(tmp_path / "data"))
    start = no_graph.cannot_read(tmp_path / "kept" / "start-0-unet.safetensors", 0)
    made = {arm: no_graph._trained(arm, start, shipped("text", "text"), args) for arm in no_graph.ARMS}
    used = {arm: read_info(path).provenance["settings"] for arm, path in made.items()}
    assert {key for key in used["graph"] if used["graph"][key] != used["none"][key]} == {"graph"} and not used["none"]["graph"]
    assert no_graph._trained("none", start, shipped("text", "text"), args) == made["none"]  # kept
    assert all(".attn2." in name or ".norm2." in name for name in tensor_names(made["graph"]))


def test_every_model_meets_every_split(orchard, tmp_path, monkeypatch):
    asked = []

    def arms(graph, options, names):
        asked.append((vars(options), tuple(names)))
        return dict.fromkeys(names, (shipped("text", "text"), None))

    monkeypatch.setattr(retrieval, "train_arms", arms)
    monkeypatch.setattr(no_graph, "_trained", lambda arm, start, text, args: shipped("unet", "unet"))
    monkeypatch.setattr(no_graph, "STEPS", 1)
    outcome = no_graph.run(options(tmp_path / "kept", seed=3))
    drawn = [row for row in outcome["rows"] if row["table"] == "names"]
    assert [(row["split"], row["trained with"]) for row in drawn] == [
        (split, model) for split in no_graph.SPLITS for model in ("graph", no_graph.OFF, "none")
    ]
    assert {check["claim"] for check in outcome["checks"]} == {one.claim for one in no_graph.expectations(options(tmp_path)).values()}
    # the same encoder and U-Net on both sides: without the graph they draw the same pictures
    by = {(row["split"], row["trained with"]): row["AA"] for row in drawn}
    assert all(by[split, no_graph.OFF] == by[split, "none"] for split in no_graph.SPLITS)
    ((given, names),) = asked
    assert names == ("graph", "none") and given["seed"] == 3
    own = argparse.ArgumentParser()
    retrieval.add_arguments(own)
    defaults = vars(own.parse_args([]))
    assert all(given[key] == defaults[key] for key in no_graph.TEXT), "the text encoders are those that bench retrieval keeps"
