"""The sampler node: what it shows, and that it hands core's function to the host."""

import pytest
from rapiddraw.core import host
from rapiddraw.core.diffusion.samplers.pndm import sample_pndm
from rapiddraw.core.errors import InputError
from rapiddraw.nodes.sampling import NODE_CLASS_MAPPINGS, SamplerPNDM


class RecordingHost:
    def make_sampler(self, function, options):
        return function, options


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
