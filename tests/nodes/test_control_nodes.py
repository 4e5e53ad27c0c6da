"""The nodes of the control adapter: they load, apply and refuse; what they compute is tested in tests/core."""

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.nodes.control_adapter import ControlAdapterApply, ControlAdapterLoader

PICTURE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))


def test_the_loader_lists_adapters_and_knows_when_one_has_changed(tiny_pack):
    choices = ControlAdapterLoader.INPUT_TYPES()["required"]["control_name"][0]
    assert choices == ["tiny-control.safetensors"]
    assert ControlAdapterLoader.IS_CHANGED("tiny-control.safetensors") != ControlAdapterLoader.IS_CHANGED("gone.safetensors")
    (net,) = ControlAdapterLoader().execute("tiny-control.safetensors", "sketch")
    assert net.conditions == ("edges", "segmentation", "sketch") and net.default == "sketch"


def test_apply_puts_one_control_on_both_prompts(tiny_pack):
    (net,) = ControlAdapterLoader().execute("tiny-control.safetensors", "edges")
    entry = [[torch.zeros(1, 7, 32), {"note": "kept"}]]
    positive, negative = ControlAdapterApply().execute(entry, entry, net, 0.7, 0.1, 0.9, sketch=PICTURE)
    control = positive[0][1]["control"]
    assert control is negative[0][1]["control"] and positive[0][1]["note"] == "kept" and "control" not in entry[0][1]
    assert control.strength == 0.7 and control.timestep_percent_range == (0.1, 0.9)
    assert not control.cond_hint_original[:, :6].any() and control.cond_hint_original[:, 6:].any()
    with pytest.raises(InputError, match="connect at least one"):
        ControlAdapterApply().execute(entry, entry, net, 1.0, 0.0, 1.0)
