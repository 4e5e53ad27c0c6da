"""The sampler node: what it shows, and that it hands core's function to the host."""

import inspect
import types

import pytest
from rapiddraw.core import host
from rapiddraw.core.diffusion.samplers.adaptive import StepControl, sample_adaptive_sde
from rapiddraw.core.diffusion.samplers.dpm_solver import sample_dpm_solver
from rapiddraw.core.diffusion.samplers.picard import PicardOptions, sample_picard
from rapiddraw.core.diffusion.samplers.pndm import sample_pndm
from rapiddraw.core.errors import InputError
from rapiddraw.nodes.sampling import (
    NODE_CLASS_MAPPINGS,
    SamplerAdaptiveSDE,
    SamplerDPMSolver,
    SamplerPicard,
    SamplerPNDM,
    SamplerReport,
)


class RecordingHost:
    sampling = types.SimpleNamespace(make_sampler=lambda function, options: (function, options))


def test_every_variant_becomes_a_sampler(monkeypatch):
    monkeypatch.setattr(host, "current", RecordingHost, raising=False)
    variants, settings = SamplerPNDM.INPUT_TYPES()["required"]["variant"]
    assert settings["default"] == "PLMS"
    for variant, key in zip(variants, ["plms", "f_pndm", "s_pndm"], strict=True):
        assert SamplerPNDM().execute(variant) == ((sample_pndm, {"variant": key}),)


def test_an_unknown_variant_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(host, "current", RecordingHost, raising=False)
    with pytest.raises(InputError, match="PLMS, F-PNDM and S-PNDM"):
        SamplerPNDM().execute("AB4")


@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS.values())
def test_every_socket_and_widget_explains_itself(node):
    for group in node.INPUT_TYPES().values():
        for name, spec in group.items():
            assert spec[1]["tooltip"], name
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
    assert node.CATEGORY.startswith("RapidDraw/") and node.DESCRIPTION and callable(getattr(node, node.FUNCTION))


def test_the_tooltip_tells_cost_and_grid():
    tooltip = SamplerPNDM.INPUT_TYPES()["required"]["variant"][1]["tooltip"]
    for word in ("N + 1", "N + 9", "karras", "uniform timesteps"):
        assert word in tooltip


def widgets(node):
    return {name: spec[1]["default"] for name, spec in node.INPUT_TYPES()["required"].items()}


@pytest.mark.parametrize(
    ("node", "function", "settings"),
    [
        (SamplerPicard, sample_picard, PicardOptions),
        (SamplerAdaptiveSDE, sample_adaptive_sde, StepControl),
        (SamplerDPMSolver, sample_dpm_solver, sample_dpm_solver),
    ],
)
def test_widgets_are_the_functions_options(node, function, settings, monkeypatch):
    monkeypatch.setattr(host, "current", RecordingHost, raising=False)
    ((made, options),) = node().execute(**widgets(node))
    known = inspect.signature(settings).parameters
    assert made is function and set(options) <= set(known)
    assert {name: value for name, value in options.items() if name != "stats"} == widgets(node)
    for name, value in widgets(node).items():
        if name not in ("order", "method"):  # for these the node prefers another than the function
            assert known[name].default == value
    assert "valid" in node.DESCRIPTION.lower(), "the description says which schedules it takes"


def test_each_sampler_node_keeps_a_report_of_its_own(monkeypatch):
    monkeypatch.setattr(host, "current", RecordingHost, raising=False)
    first, second = (SamplerPicard().execute(**widgets(SamplerPicard))[0][1]["stats"] for _ in range(2))
    assert first is not second


def test_the_report_tells_the_last_run():
    latent, sampler = {"samples": None}, types.SimpleNamespace(extra_options={"stats": {"iterations": 3, "max_nfe": 7}})
    assert SamplerReport().execute(sampler, latent) == (latent, "iterations: 3\nmax nfe: 7")
    assert "not run yet" in SamplerReport().execute(types.SimpleNamespace(extra_options={"stats": {}}), latent)[1]
    assert "keeps no report" in SamplerReport().execute(types.SimpleNamespace(extra_options={}), latent)[1]
    assert "keeps no report" in SamplerReport().execute(object(), latent)[1]
