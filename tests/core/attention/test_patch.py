"""The patch of a model: the same numbers whatever kernel runs, and what happens when one fails."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import pytest
import torch
from rapiddraw.core.attention.backends import BACKENDS, Backend
from rapiddraw.core.attention.chain import OVERRIDE, attached, chained, patches_of, report_of
from rapiddraw.core.attention.memory import Memory
from rapiddraw.core.attention.patch import AttentionPatch
from rapiddraw.core.attention.select import Selector
from rapiddraw.core.attention.tiled import tiled_attention
from rapiddraw.core.errors import InputError


def plain(q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False, **_):
    """A host's own attention, by the textbook, in ComfyUI's layout."""
    if not skip_reshape:
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + (mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask)
    out = scores.softmax(dim=-1) @ v
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def tensors(queries=12, keys=12, width=8, heads=2, batch=2):
    generator = torch.Generator().manual_seed(queries + keys)
    return [torch.randn(batch, n, heads * width, generator=generator) for n in (queries, keys, keys)]


@pytest.fixture
def selector(tmp_path):
    return Selector(Memory(tmp_path / "attention.json"))


@pytest.fixture
def patch(selector):
    """A patch that runs the tiled kernel, whose calls it counts."""
    return AttentionPatch("tiled", selector=selector)


def backend(name, run, **about):
    return Backend(name, run, lambda call: True, **about)


def good(q, k, v, mask):
    return tiled_attention(q, k, v, mask)


def used(patch):
    return {(row.kind, row.backend): row.calls for row in patch.rows.values()}


def test_every_backend_gives_what_the_default_gives(selector):
    for name in [name for name in BACKENDS if name != "sage"]:
        patch = AttentionPatch(name, selector=selector)
        for sizes in ((12, 12), (12, 7)):
            q, k, v = tensors(*sizes)
            for _ in range(2):  # measured, then chosen
                torch.testing.assert_close(patch.attend(plain, q, k, v, 2), plain(q, k, v, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(12, 7), (2, 12, 7), (1, 12, 7), (2, 2, 12, 7), (1, 1, 12, 7)])
def test_masks_as_comfyui_passes_them(patch, size):
    q, k, v = tensors(12, 7)
    mask = torch.randn(size, generator=torch.Generator().manual_seed(9))
    for _ in range(2):
        torch.testing.assert_close(patch.attend(plain, q, k, v, 2, mask), plain(q, k, v, 2, mask), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(patch.attend(plain, q, k, v, 2, mask=mask), plain(q, k, v, 2, mask), rtol=1e-5, atol=1e-6)
    assert used(patch) == {("cross", "tiled"): 4}


@pytest.mark.parametrize("out", [False, True])
def test_layouts_as_comfyui_passes_them(patch, out):
    q, k, v = (t.unflatten(2, (2, -1)).transpose(1, 2) for t in tensors(12, 7))
    options = {"skip_reshape": True, "skip_output_reshape": out, "attn_precision": torch.float32, "_inside_attn_wrapper": True}
    for _ in range(2):
        got = patch.attend(plain, q, k, v, 2, transformer_options={"block": ("input", 1)}, **options)
        torch.testing.assert_close(got, plain(q, k, v, 2, **options), rtol=1e-5, atol=1e-6)
    assert used(patch) == {("cross", "tiled"): 2}


def test_apply_to_limits_the_calls(selector):
    for apply_to, kinds in (("self", {"self"}), ("cross", {"cross"}), ("both", {"self", "cross"})):
        patch = AttentionPatch("tiled", apply_to, selector=selector)
        patch.attend(plain, *tensors(12, 12), 2), patch.attend(plain, *tensors(12, 7), 2)
        assert {kind for kind, _ in used(patch)} == kinds


def test_calls_that_are_not_plain_attention_run_as_before(patch):
    q, k, v = tensors(12, 7)
    seen = []

    def special(*args, **kwargs):
        seen.append(kwargs)
        return "the default's"

    calls = [
        ((q, k, v, 2), {"mask": torch.ones(12, 7, dtype=torch.bool)}),
        ((q, k, v, 2), {"softcap": 5.0}),  # an argument of tomorrow
        ((q, k[:, :, :8], v[:, :, :8], 2), {}),
        ((q, k, v[:, :, :8], 2), {}),
        ((q, k[:1], v[:1], 2), {}),
        ((q, k.double(), v.double(), 2), {}),
        ((q[:, :0], k, v, 2), {}),
        ((q.clone().requires_grad_(), k, v, 2), {}),
        ((torch.zeros(2, 2, 12, 8), torch.zeros(2, 1, 7, 8), torch.zeros(2, 1, 7, 8), 2), {"skip_reshape": True}),  # grouped heads
    ]  # fmt: skip
    for args, kwargs in calls:
        assert patch.attend(special, *args, **kwargs) == "the default's"
    assert len(seen) == len(calls) and not patch.rows


def test_auto_takes_the_fastest_and_never_an_inexact_one(selector):
    table = {"rough": backend("rough", lambda q, k, v, mask: v[:, :, :1].expand_as(q).contiguous(), exact=False)}
    q, k, v = tensors()
    patch = AttentionPatch(backends=table, selector=selector)
    for _ in range(2):
        torch.testing.assert_close(patch.attend(plain, q, k, v, 2), plain(q, k, v, 2))
    assert used(patch) == {("self", "default"): 2} and patch.backends == {}
    allowed = AttentionPatch("rough", "both", True, backends=table, selector=selector)
    for _ in range(2):
        allowed.attend(plain, q, k, v, 2)
    assert used(allowed) == {("self", "rough"): 2}
    precise = allowed.attend(plain, q, k, v, 2, low_precision_attention=False)  # ComfyUI asks for exactness here
    torch.testing.assert_close(precise, plain(q, k, v, 2))
    with pytest.raises(InputError, match="allow_inexact"):
        AttentionPatch("rough", backends=table)


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="'fastest'.*auto"):
        AttentionPatch("fastest")
    with pytest.raises(InputError, match="apply_to"):
        AttentionPatch(apply_to="neither")


def test_a_backend_that_is_missing_is_said_once_and_the_default_runs(selector, caplog):
    table = {"gone": backend("gone", good, package="no_such_kernel_package")}
    patch = AttentionPatch("gone", backends=table, selector=selector)
    q, k, v = tensors()
    for _ in range(3):
        torch.testing.assert_close(patch.attend(plain, q, k, v, 2), plain(q, k, v, 2))
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
        "attention: gone is off for this model, because it is not installed (package no_such_kernel_package); the default is used"
    ]
    assert "gone is off" in patch.report() and used(patch) == {("self", "default"): 3}


def test_a_backend_that_raises_is_put_away_with_one_warning(selector, caplog):
    broken = []

    def run(q, k, v, mask):
        if broken:
            raise RuntimeError("illegal memory access")
        return good(q, k, v, mask)

    patch = AttentionPatch("flaky", backends={"flaky": backend("flaky", run)}, selector=selector)
    q, k, v = tensors()
    patch.attend(plain, q, k, v, 2)
    broken.append(True)
    for _ in range(3):
        torch.testing.assert_close(patch.attend(plain, q, k, v, 2), plain(q, k, v, 2))
    warnings = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1 and "illegal memory access" in warnings[0]
    assert "flaky is off for this model" in patch.report()


def test_no_memory_left_runs_this_call_on_the_default_only(selector):
    full = []

    def run(q, k, v, mask):
        if full:
            raise torch.OutOfMemoryError(full.pop())
        return good(q, k, v, mask)

    patch = AttentionPatch("large", backends={"large": backend("large", run)}, selector=selector)
    q, k, v = tensors()
    patch.attend(plain, q, k, v, 2)
    full.append("no memory")
    torch.testing.assert_close(patch.attend(plain, q, k, v, 2), plain(q, k, v, 2))
    assert patch.off == {} and not full


def sometimes_nan(bad):
    return lambda q, k, v, mask: good(q, k, v, mask) * (torch.nan if bad else 1)


def test_non_finite_output_is_retried_on_the_default_once(selector, caplog):
    """Two kernels, one of which goes wrong after it was chosen: that one is found and put away, the other stays."""
    bad, runs = [], []
    q, k, v = tensors(12, 12)
    table = {"nan": backend("nan", sometimes_nan(bad)), "fine": backend("fine", good)}
    one, two = (AttentionPatch(name, backends=table, selector=selector) for name in table)

    def model():
        runs.append(1)
        return one.attend(plain, q, k, v, 2)

    expected = plain(q, k, v, 2)
    for patch in (one, two):
        patch.attend(plain, q, k, v, 2)
    torch.testing.assert_close(one.evaluate(model), expected)
    bad.append(True)
    runs.clear()
    torch.testing.assert_close(one.evaluate(model), expected)
    assert len(runs) == 2 and list(one.off) == ["nan"]
    torch.testing.assert_close(one.evaluate(model), expected)
    assert len(runs) == 3  # and from now on there is nothing to retry
    warnings = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1 and "not finite" in warnings[0]


def test_a_model_that_is_itself_non_finite_is_retried_once_in_all(patch, caplog):
    runs = []

    def model():
        runs.append(1)
        return patch.attend(plain, *tensors(), 2) * torch.inf * 0

    patch.attend(plain, *tensors(), 2)
    for _ in range(3):
        patch.evaluate(model)
    assert len(runs) == 4 and patch.off == {}
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
        "attention: the model's own output is not finite, with the default attention too"
    ]


def test_a_vae_is_checked_at_every_call(selector):
    bad = []
    patch = AttentionPatch("nan", backends={"nan": backend("nan", sometimes_nan(bad))}, selector=selector)
    q, k, v = (torch.randn(1, 6, 3, 4, generator=torch.Generator().manual_seed(n)) for n in range(3))

    def own(q, k, v):
        flat = [t.flatten(2).transpose(1, 2) for t in (q, k, v)]
        return plain(*flat, 1).transpose(1, 2).reshape(q.shape)

    for _ in range(2):
        torch.testing.assert_close(patch.attend_pixels(own, q, k, v), own(q, k, v), rtol=1e-5, atol=1e-6)
    bad.append(True)
    torch.testing.assert_close(patch.attend_pixels(own, q, k, v), own(q, k, v))
    assert list(patch.off) == ["nan"] and used(patch)["VAE", "nan"] == 3


class Model:
    def __init__(self, options=None):
        self.model_options = options or {"transformer_options": {}}

    def clone(self):
        return Model(copy.deepcopy(self.model_options))  # as ComfyUI 0.8.0 does


def test_patches_stack_and_the_source_stays_as_it_was(selector):
    source = Model()
    inner = attached(source, AttentionPatch("tiled", "self", selector=selector))
    outer = attached(inner, AttentionPatch("sdpa_math", "cross", selector=selector))
    assert source.model_options == {"transformer_options": {}} and len(patches_of(inner)) == 1 and len(patches_of(outer)) == 2
    override = outer.model_options["transformer_options"][OVERRIDE]
    for sizes in ((12, 12), (12, 7)):
        q, k, v = tensors(*sizes)
        for _ in range(2):
            torch.testing.assert_close(override(plain, q, k, v, 2), plain(q, k, v, 2), rtol=1e-5, atol=1e-6)
    assert [used(patch) for patch in patches_of(outer)] == [{("self", "tiled"): 2}, {("cross", "sdpa_math"): 2}]
    assert "tiled" in report_of(outer) and "sdpa_math" in report_of(outer) and "no attention patch" in report_of(source)


def test_two_patches_of_the_same_calls_give_the_same(selector):
    model = attached(attached(Model(), AttentionPatch("tiled", selector=selector)), AttentionPatch(selector=selector))
    override = model.model_options["transformer_options"][OVERRIDE]
    q, k, v = tensors()
    for _ in range(3):
        torch.testing.assert_close(override(plain, q, k, v, 2), plain(q, k, v, 2), rtol=1e-5, atol=1e-6)


def test_an_override_that_does_more_stays_in_charge(patch):
    def doubled(func, q, k, v, heads, **kwargs):
        return 2 * func(q, k, v, heads, **kwargs)

    q, k, v = tensors()
    override = chained(doubled, patch)
    for _ in range(2):
        torch.testing.assert_close(override(plain, q, k, v, 2), 2 * plain(q, k, v, 2), rtol=1e-5, atol=1e-6)
    assert used(patch) == {("self", "tiled"): 2}


def test_a_report_says_which_kernel_ran_where_how_often_and_the_gain(patch):
    for _ in range(3):
        patch.attend(plain, *tensors(12, 12), 2)
    (row,) = patch.rows.values()
    patch.rows = {"a": replace(row, gain=2.5, own=0.1, calls=40)}
    report = patch.report()
    assert "self 12x12 d8 float32" in report and "tiled" in report and "2.50x" in report and "40" in report and "2.40 s" in report


def test_one_line_of_the_log_says_what_ran(patch, caplog):
    q, k, v = tensors()
    with caplog.at_level("INFO", "rapiddraw"):
        for _ in range(3):
            patch.evaluate(lambda: patch.attend(plain, q, k, v, 2))
    (line,) = [r.message for r in caplog.records if r.levelno == logging.INFO]
    assert line.startswith("attention: self 12x12 d8 float32 on tiled (")


def test_a_compiled_graph_uses_what_compilers_know(patch):
    q, k, v = tensors(12, 7)
    compiled = torch.compile(lambda q, k, v: patch.attend(plain, q, k, v, 2), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), plain(q, k, v, 2), rtol=1e-5, atol=1e-6)
    assert not patch.rows and "compiled" in patch.report()
