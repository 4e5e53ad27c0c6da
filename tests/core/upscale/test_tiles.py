"""Upscaling in tiles: sizes, channels, seams, memory and stopping."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core import progress
from rapiddraw.core.errors import Cancelled, InputError
from rapiddraw.core.upscale import memory, reach, runner, tiles
from rapiddraw.core.upscale.layouts import RRDBConfig
from rapiddraw.core.upscale.resize import Target, resize
from rapiddraw.core.upscale.rrdb import Upscaler, build
from rapiddraw.core.upscale.tiles import Tiling, _spans
from torch import nn
from torch.nn import Linear, functional


class Doubler(nn.Module):
    """A stand-in with the members of a descriptor: bilinear x2, so that what is expected can be computed."""

    scale, input_channels = 2, 3

    def __init__(self, limit: int | None = None, message: str = "CUDA out of memory. Tried to allocate") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.limit, self.message, self.sizes = limit, message, []

    @property
    def model(self):
        return self

    def forward(self, image):
        self.sizes.append(tuple(image.shape[2:]))
        if self.limit and max(image.shape[2:]) > self.limit:
            raise RuntimeError(self.message)
        return functional.interpolate(image, scale_factor=2, mode="bilinear")


def upscale(model, image, **options):
    """:func:`~.tiles.upscale` with its options by name."""
    target = Target(**{name: options.pop(name) for name in ("factor", "long_side", "size") if name in options})
    tiling = Tiling(**{name: options.pop(name) for name in ("tile", "overlap", "batch") if name in options})
    return tiles.upscale(model, image, target, tiling, **options)


@pytest.fixture(autouse=True)
def reach_is_known(monkeypatch):
    """The stand-in's reach is not measured, so that its calls can be counted; an ESRGAN's is."""
    measure = reach.border_errors
    known = lambda network, *given: [0.0] * 64 if isinstance(network, Doubler) else measure(network, *given)  # noqa: E731
    monkeypatch.setattr(reach, "border_errors", known)


class Bars:
    """Counts bars and steps; may ask for a stop after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.totals, self.steps, self.stop_after = [], 0, stop_after

    def __call__(self, total, label, unit):
        self.totals.append(total)
        return self

    def advance(self, count, info, preview=None):
        self.steps += count
        if self.steps == self.stop_after:
            progress.request_cancel()

    def close(self):
        pass


@pytest.fixture
def bars():
    counter = Bars()
    progress.set_reporter(counter)
    yield counter
    progress.set_reporter(None)
    progress.clear_cancel()


def gradient(height: int, width: int) -> torch.Tensor:
    """A smooth picture (1, H, W, 3): any seam would be its only edge."""
    y, x = torch.linspace(0.1, 0.9, height)[:, None], torch.linspace(0.1, 0.9, width)[None]
    return torch.stack([y.expand(height, width), x.expand(height, width), (x + y) / 2], -1)[None]


def esrgan() -> Upscaler:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(RRDBConfig(3, 3, 16, 2, 32), "spandrel")
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.06)
        nn.init.constant_(list(network.parameters())[-1], 0.5)
    return Upscaler(network, RRDBConfig(3, 3, 16, 2, 32))


def test_tiles_of_an_esrgan_leave_no_seam_on_a_gradient(bars):
    model, image = esrgan(), gradient(150, 90)
    whole = upscale(model, image, tile=256)
    tiled = upscale(model, image, tile=64, overlap=32)
    assert bars.totals == [1, 8]
    assert whole.std() > 0.001
    assert (whole - tiled).abs().max() < 1 / 255
    # No step between neighbours that the picture in one piece does not have: the seam itself, not only the values.
    for dim in (1, 2):
        assert (whole.diff(dim=dim) - tiled.diff(dim=dim)).abs().max() < 1 / 255


def test_a_local_model_in_tiles_is_exact_except_for_rounding():
    image = torch.rand(1, 131, 77, 3, generator=torch.Generator().manual_seed(0))
    whole = upscale(Doubler(), image, tile=512)
    torch.testing.assert_close(upscale(Doubler(), image, tile=48, overlap=16), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (5, 2), (33, 64), (65, 40)])
def test_every_channel_count_and_size(channels, size):
    image = torch.rand(2, *size, channels, generator=torch.Generator().manual_seed(1))
    before = image.clone()
    result = upscale(Doubler(), image, tile=32, overlap=8)
    expected = functional.interpolate(image.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert torch.equal(image, before) and result.dtype == torch.float32 and result.is_contiguous()


def test_a_grey_model_takes_colour_pictures_channel_by_channel():
    grey = Doubler()
    grey.input_channels = 1
    assert upscale(grey, torch.rand(1, 8, 8, 3)).shape == (1, 16, 16, 3)
    grey.input_channels = 7
    with pytest.raises(InputError, match="7 channels"):
        upscale(grey, torch.rand(1, 8, 8, 3))


@pytest.mark.parametrize(
    ("target", "size"),
    [
        ({}, (60, 80)),
        ({"factor": 3.0}, (90, 120)),
        ({"factor": 0.5}, (15, 20)),
        ({"long_side": 100}, (75, 100)),
        ({"size": (64, 32)}, (32, 64)),
    ],
)
def test_targets(target, size):
    result = upscale(Doubler(), gradient(30, 40), **target)
    assert result.shape == (1, *size, 3)
    assert result.min() >= 0 and result.max() <= 1
    assert abs(result.mean() - gradient(30, 40).mean()) < 0.01


def test_one_bar_for_all_tiles_of_a_batch(bars):
    upscale(Doubler(), torch.rand(3, 60, 60, 4), tile=40, overlap=8)
    assert bars.totals == [3 * 2 * 4] and bars.steps == 24


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried to allocate", "DefaultCPUAllocator: can't allocate memory: you tried"])
def test_out_of_memory_halves_the_tile_says_so_once_and_goes_on(bars, caplog, message):
    model, image = Doubler(40, message), gradient(150, 130)
    with caplog.at_level("WARNING", "rapiddraw"):
        result = upscale(model, image, tile=128, overlap=8)
    torch.testing.assert_close(result, upscale(Doubler(), image, tile=256), rtol=0, atol=1e-5)
    assert [record.message for record in caplog.records] == ["out of memory while upscaling: going on with tiles of 40 px instead of 79"]
    assert sum(max(size) > 40 for size in model.sizes) == 1  # 79, the even half of 150 and its overlap; then 40 is remembered
    assert bars.totals[0] == 4


def test_other_errors_and_hopeless_memory_are_raised():
    with pytest.raises(RuntimeError, match="shape mismatch"):
        upscale(Doubler(10, "shape mismatch"), gradient(64, 64))
    with pytest.raises(RuntimeError, match="out of memory"):
        upscale(Doubler(10), gradient(64, 64))


def test_a_stop_is_honoured_between_tiles(bars):
    bars.stop_after = 2
    model = Doubler()
    with pytest.raises(Cancelled):
        upscale(model, gradient(150, 150), tile=32, overlap=8)
    assert len(model.sizes) == 2


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"tile": 8}, "tile is 8"),
        ({"batch": 17}, "batch is 17"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"overlap": 300}, "overlap is 300"),
        ({"overlap": -1}, "overlap is -1"),
        ({"factor": 0.0}, "above 0"),
        ({"long_side": -8}, "long_side is -8"),
        ({"factor": float("nan")}, "above 0"),
        ({"factor": 1e6}, "would be"),
        ({"size": (0, 4)}, "would be 0x4"),
        ({"factor": 2.0, "long_side": 9}, "factor and long_side"),
    ],
)
def test_numbers_are_checked_before_anything_is_allocated(bad, says):
    model = Doubler()
    with pytest.raises(InputError, match=says):
        upscale(model, gradient(16, 16), **bad)
    assert model.sizes == []


@pytest.mark.parametrize("shape", [(4, 4, 3), (1, 4, 4, 2), (1, 0, 4, 3), (0, 4, 4, 3)])
def test_shapes_are_checked(shape):
    with pytest.raises(InputError, match="an IMAGE is"):
        upscale(Doubler(), torch.zeros(shape))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 57, 100, 101, 640])
@pytest.mark.parametrize("overlap", [0, 7, 16])
def test_spans_cover_and_overlap_at_least_as_asked(length, overlap):
    spans = _spans(length, 32, overlap)
    assert spans[0][0] == 0 and spans[-1][1] == length
    for (_, end), (start, _) in zip(spans, spans[1:], strict=False):
        assert end - start >= overlap
    assert len({end - start for start, end in spans}) == 1 and spans[0][1] <= 32
    assert len(spans) == (1 if length <= 32 else -(-(length - overlap) // (32 - overlap))), "no more than the size asks for"


def test_resize_keeps_a_flat_picture_flat_and_its_own_size_untouched():
    flat = torch.full((2, 3, 9, 7), 0.3)
    torch.testing.assert_close(resize(flat, (20, 4)), torch.full((2, 3, 4, 20), 0.3))
    assert resize(flat, (7, 9)) is flat
    assert Target(long_side=10).pixels(100, 1, 4) == (10, 1)


def test_batches_give_the_same_as_one_at_a_time(bars):
    images = torch.rand(3, 70, 61, 4, generator=torch.Generator().manual_seed(5))
    one = upscale(Doubler(), images, tile=40, overlap=8, batch=1)
    for batch in (2, 5, 16):
        torch.testing.assert_close(upscale(Doubler(), images, tile=40, overlap=8, batch=batch), one, rtol=0, atol=1e-6)
    assert bars.totals == [24] * 4 and bars.steps == 96


def test_out_of_memory_halves_the_batch_before_the_tile(caplog):
    class Small(Doubler):
        def forward(self, image):
            if len(image) > 2:
                raise RuntimeError("CUDA out of memory")
            return super().forward(image)

    images = torch.rand(2, 70, 61, 3, generator=torch.Generator().manual_seed(5))
    result = upscale(Small(), images, tile=40, overlap=8, batch=8)
    torch.testing.assert_close(result, upscale(Doubler(), images, tile=40, overlap=8), rtol=0, atol=1e-6)
    assert "4 tiles at once instead of 8" in caplog.text and "px instead" not in caplog.text


def test_the_first_tile_fits_into_free_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 100 * 2**20)
    assert tiles.first_tile is memory.first_tile
    model, cpu = Doubler(), torch.device("cpu")
    assert memory.first_tile(512, 4, cpu) == 56 and memory.first_tile(32, 4, cpu) == 32
    upscale(model, gradient(200, 200), tile=512)
    assert max(max(size) for size in model.sizes) <= 88
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    assert memory.first_tile(512, 4, cpu) == 512 and memory.first_batch(64, 64, 4, cpu) == 1


def test_convolutions_get_channels_last_tiles_and_others_do_not():
    seen = []

    class Watching(Doubler):
        def forward(self, image):
            seen.append(image.is_contiguous(memory_format=torch.channels_last))
            return super().forward(image)

    other = Watching()
    other.add_module("attention", Linear(2, 2))
    for model in (Watching(), other):
        upscale(model, torch.rand(1, 12, 10, 3, generator=torch.Generator().manual_seed(0))[:, :, :, [0, 1, 2]])
    assert seen[0] and len(seen) == 2


def test_bf16_is_used_where_it_holds_and_not_where_it_does_not(monkeypatch):
    model, image = esrgan(), gradient(64, 64)
    exact = upscale(model, image, tile=40, overlap=8)
    monkeypatch.setattr(runner, "SAME", -1.0)
    assert torch.equal(upscale(model, image, tile=40, overlap=8, precision="auto"), exact)
    monkeypatch.setattr(runner, "SAME", 1.0)
    monkeypatch.setattr(runner, "best_seconds", lambda ways, repeats: {"full": 2.0, "bf16": 1.0})
    assert torch.equal(upscale(model, image, tile=40, overlap=8, precision="auto"), exact), "tried once for a network"
    model = esrgan()
    half = upscale(model, image, tile=40, overlap=8, precision="auto")
    assert not torch.equal(half, exact) and (half - exact).abs().max() < 1 / 255
    assert not any("forward" in vars(module) for module in model.model.modules())
