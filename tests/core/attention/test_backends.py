"""The table of kernels: those that run here are exact, those that need a package are called as that package wants."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from rapiddraw.core.attention.backends import BACKENDS, Call, has_package, pad_heads
from rapiddraw.core.attention.tiled import tiled_attention
from rapiddraw.nodes.attention import _BACKENDS

CPU = torch.device("cpu")
HERE = [name for name, one in BACKENDS.items() if one.available() and one.takes(Call(CPU, torch.float32, 1, 1, 8, 8, 8, False))]
ROUNDING = {torch.float32: 5e-6, torch.bfloat16: 2e-2}


def tensors(queries, keys, width, dtype=torch.float32, heads=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, n, width, generator=generator).to(dtype) for n in (queries, keys, keys)]


def test_the_node_offers_every_kernel():
    assert ("auto", "default", *BACKENDS) == _BACKENDS


def test_torchs_kernels_and_ours_are_here():
    assert {"sdpa_flash", "sdpa_math", "tiled"} <= set(HERE)
    assert not BACKENDS["sage"].exact and all(one.exact for name, one in BACKENDS.items() if name != "sage")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("queries", "keys", "width"), [(64, 64, 40), (33, 77, 80), (17, 5, 3), (1, 9, 160)])
@pytest.mark.parametrize("name", HERE)
def test_what_runs_here_is_exact(name, queries, keys, width, dtype, masked):
    q, k, v = tensors(queries, keys, width, dtype)
    mask = torch.randn(1, 1, queries, keys, generator=torch.Generator().manual_seed(1)).to(dtype) if masked else None
    expected = tiled_attention(q.double(), k.double(), v.double(), None if mask is None else mask.double())
    out = BACKENDS[name].run(q, k, v, mask)
    assert out.dtype == dtype and out.shape == q.shape
    assert float((out.double() - expected).abs().max()) < ROUNDING[dtype] * float(expected.abs().max())


def test_kernels_for_a_gpu_take_nothing_on_the_cpu():
    call = Call(CPU, torch.float16, 1, 8, 64, 64, 64, False)
    gpu = ("flash_attn_3", "flash_attn_2", "sdpa_cudnn", "sdpa_efficient", "xformers", "sage")
    assert [name for name in gpu if BACKENDS[name].takes(call)] == []


def test_a_kernel_that_holds_all_scores_is_kept_from_large_calls():
    assert not BACKENDS["sdpa_math"].takes(Call(CPU, torch.float32, 2, 8, 16384, 16384, 40, False))
    assert BACKENDS["tiled"].takes(Call(CPU, torch.float32, 2, 8, 16384, 16384, 40, False))


@pytest.mark.parametrize("major", [7, 8, 9, 10])
def test_what_a_gpu_takes_by_its_generation(major, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    monkeypatch.setattr(torch.version, "cuda", "13")
    gpu = torch.device("cuda", 0)

    def taking(dtype=torch.float16, width=64, masked=False):
        return {name for name, one in BACKENDS.items() if one.takes(Call(gpu, dtype, 1, 8, 64, 64, width, masked))}

    newer = {"flash_attn_2", "sdpa_flash", "sdpa_cudnn", "xformers", "sage"} if major >= 8 else set()
    always = {"sdpa_efficient", "sdpa_math", "tiled"}
    assert taking() == always | newer | ({"flash_attn_3"} if major == 9 else set())
    assert taking(masked=True) == always == taking(torch.float32)
    assert taking(width=512) == always


def test_padding_changes_nothing():
    q, k, v = tensors(9, 7, 13)
    wide = pad_heads(q, k, v, 8)
    assert [t.shape[-1] for t in wide] == [16, 16, 16]
    torch.testing.assert_close(tiled_attention(*wide, scale=13**-0.5)[..., :13], tiled_attention(q, k, v))
    assert all(a is b for a, b in zip(pad_heads(q, k, v, 13), (q, k, v), strict=True))


def attention(q, k, v, scale):
    return tiled_attention(q, k, v, scale=scale)


@pytest.mark.parametrize("name", ["flash_attn_2", "flash_attn_3", "xformers", "sage"])
def test_a_package_is_called_as_it_wants(name, monkeypatch):
    """The packages' own functions, by their documented arguments, on a machine that has none of them."""
    seen = {}

    def tokens_first(q, k, v, *, softmax_scale=None, scale=None):  # (B, T, H, D)
        seen["width"] = q.shape[-1]
        swapped = (t.transpose(1, 2) for t in (q, k, v))
        return attention(*swapped, scale if softmax_scale is None else softmax_scale).transpose(1, 2)

    def heads_first(q, k, v, *, tensor_layout, is_causal, sm_scale):
        seen["width"] = q.shape[-1]
        assert tensor_layout == "HND" and not is_causal
        return attention(q, k, v, sm_scale)

    fakes = {
        "flash_attn": {"flash_attn_func": tokens_first},
        "flash_attn_interface": {"flash_attn_func": lambda *a, **k: (tokens_first(*a, **k), None)},  # some releases return the sums too
        "xformers.ops": {"memory_efficient_attention": tokens_first},
        "sageattention": {"sageattn": heads_first},
    }
    for module, members in fakes.items():
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**members))
    q, k, v = tensors(9, 7, 20)
    torch.testing.assert_close(BACKENDS[name].run(q, k, v, None), tiled_attention(q, k, v))
    assert seen["width"] == (64 if name == "sage" else 24)


def test_a_package_that_cannot_be_imported_counts_as_missing(tmp_path: Path, monkeypatch, caplog):
    (tmp_path / "broken_kernel.py").write_text("raise OSError('libcudart.so.11: cannot open shared object file')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    has_package.cache_clear()
    with caplog.at_level("INFO", "rapiddraw"):
        assert not has_package("broken_kernel") and not has_package("no_such_kernel_package")
    assert [r.message for r in caplog.records] == [
        "broken_kernel is installed but cannot be used (OSError: libcudart.so.11: cannot open shared object file)"
    ]
    has_package.cache_clear()
