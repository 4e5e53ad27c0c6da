"""The attention nodes: what they hand to the host, and a report that is taken after sampling."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rapiddraw.core import host
from rapiddraw.core.errors import InputError
from rapiddraw.core.graph.execute import execute
from rapiddraw.nodes.attention import AttentionReport, FlashAttentionPatch

TINY = {"unet_name": "tiny-unet.safetensors", "text_name": "tiny-text.safetensors", "vae_name": "tiny-vae.safetensors"}


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def graph(**settings):
    settings = {"backend": "auto", "apply_to": "both", "allow_inexact": False} | settings
    return {
        "L": node("RapidDrawBundleLoader", **TINY),
        "A": node("RapidDrawFlashAttentionPatch", model=["L", 0], vae=["L", 2], **settings),
        "P": node("CLIPTextEncode", text="a round red fruit", clip=["L", 1]),
        "E": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "K": node("KSampler", model=["A", 0], positive=["P", 0], negative=["P", 0], latent_image=["E", 0], seed=1, steps=2, cfg=3.0,
                  sampler_name="euler", scheduler="normal", denoise=1.0),
        "D": node("VAEDecode", samples=["K", 0], vae=["A", 1]),
        "R": node("RapidDrawAttentionReport", model=["A", 0], latent=["K", 0], image=["D", 0]),
        "T": node("PreviewAny", source=["R", 0]),
        "S": node("SaveImage", images=["D", 0], filename_prefix="test"),
    }  # fmt: skip


def test_a_graph_with_patch_and_report_runs_headless(tiny_pack):
    from rapiddraw.nodes.registry import registry

    (text,) = execute(graph(backend="tiled"), registry()).outputs["T"]["text"]
    assert "attention patch: tiled, both" in text and "self 64x64" in text and "cross 64x" in text
    assert list((tiny_pack / "output").glob("*.png"))


def test_the_node_hands_its_settings_to_the_host(monkeypatch):
    seen = []

    class Attention:
        def patch_model(self, model, patch):
            seen.append((model, patch.backend, patch.apply_to, "sage" in patch.backends))
            return "patched"

        def patch_vae(self, vae, patch):
            seen.append((vae, patch.backend, patch.apply_to, "sage" in patch.backends))
            return "patched VAE"

    monkeypatch.setattr(host, "current", lambda: SimpleNamespace(attention=Attention()))
    assert FlashAttentionPatch().execute("M", "tiled", "self", False) == ("patched", None)
    assert FlashAttentionPatch().execute("M", "auto", "both", False, "V") == ("patched", "patched VAE")
    assert seen == [("M", "tiled", "self", False), ("M", "auto", "both", False), ("V", "auto", "both", False)]
    with pytest.raises(InputError, match="allow_inexact"):
        FlashAttentionPatch().execute("M", "sage", "both", False)


def test_a_model_without_a_patch_says_so():
    class Plain:
        model_options = {}

    report, latent = AttentionReport().execute(Plain(), "L")
    assert "no attention patch" in report and latent == "L"
