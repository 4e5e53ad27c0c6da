"""ESRGAN networks in ncnn's files: `NAME.param` lists the layers as text, `NAME.bin` holds their weights.

realesrgan-ncnn-vulkan, realsr-ncnn-vulkan and Upscayl have their networks in this form. The `.param` file is read as a graph, and the graph
must be that of an RRDB network (Wang et al. 2018, "ESRGAN"), node by node: the order of the weights alone would not prove it. Files come
from strangers: both sizes are compared with what the layers claim before any weight is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BundleError
from .find import files_of

MAX_PARAM_BYTES = 4 * 2**20
MAX_LAYERS, MAX_ENDS = 20_000, 64
MAX_CHANNELS = 4096
MAX_BIN_BYTES = 2 * 2**30
MAGIC = "7767517"
HALF, FULL = 0x01306B47, 0
"""What stands before the weights of a layer: half or single precision. Biases are single precision always."""
SLOPE = 0.2


@dataclass(frozen=True)
class Layer:
    """A line of a `.param` file: its type, the blobs that it reads and writes, and its numbers by key."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[int, float] = field(default_factory=dict)
    arrays: dict[int, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Convolution:
    """A 3x3 convolution: channels in and out."""

    inputs: int
    outputs: int


def read_ncnn(path: Path) -> dict[str, Tensor]:
    """Return the weights of the RRDB network in `path` (`.param`) and the `.bin` beside it, under BasicSR's names, as float32.

    Raises :class:`BundleError`, which names the file, for one that is missing, damaged, too large, or of another kind of network.
    """
    try:
        layers = _layers(_text(path))
        convolutions, ups = _convolutions(layers), sum(layer.kind == "Interp" for layer in layers)
        names = _names(len(convolutions), ups)
        _check_graph(layers, names, ups)
        return dict(_weights(files_of(path)[1], convolutions, names))
    except BundleError as error:
        raise error if path.stem in str(error) else BundleError(f"{path.name}: {error}") from error


def _text(path: Path) -> str:
    for file in files_of(path):
        if not file.is_file():
            raise BundleError(f"{file.name} is missing; a network in ncnn's form is two files, {path.name} and {files_of(path)[1].name}")
    size = path.stat().st_size
    if size > MAX_PARAM_BYTES:
        raise BundleError(f"{path.name} has {size} bytes, more than the {MAX_PARAM_BYTES} that the layers of an upscaler need")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path.name} is no text; the binary form .param.bin is not read, use the .param of the same network") from error


def _layers(text: str) -> list[Layer]:
    lines = text.split("\n")
    if lines[0].strip() != MAGIC:
        raise BundleError(f"this is no .param file of ncnn: it should begin with {MAGIC}, and begins with {lines[0][:20]!r}")
    claimed = lines[1].split() if len(lines) > 1 else []
    rows = [line for line in lines[2:] if line.strip()]
    if len(claimed) != 2 or _whole(claimed[0], MAX_LAYERS) != len(rows):
        raise BundleError(f"its second line says {' '.join(claimed)[:40]!r} (layers and blobs), and it has {len(rows)} layers")
    return [_layer(row) for row in rows]


def _layer(row: str) -> Layer:
    words = row.split()
    if len(words) < 4:
        raise BundleError(f"a layer should be written as type, name, inputs, outputs; found {row[:60]!r}")
    reads, writes = _whole(words[2], MAX_ENDS), _whole(words[3], MAX_ENDS)
    ends, rest = words[4 : 4 + reads + writes], words[4 + reads + writes :]
    if len(ends) != reads + writes:
        raise BundleError(f"a layer names fewer blobs than it counts: {row[:60]!r}")
    numbers: dict[int, float] = {}
    arrays: dict[int, tuple[float, ...]] = {}
    for word in rest:
        key, _, value = word.partition("=")
        number = _number(key)
        if number <= -23300:
            count, *values = value.split(",")
            if _whole(count, MAX_ENDS) != len(values):
                raise BundleError(f"an array counts {count[:20]!r} numbers and has {len(values)}: {row[:60]!r}")
            arrays[int(-23300 - number)] = tuple(map(_number, values))
        else:
            numbers[int(number)] = _number(value)
    return Layer(words[0], tuple(ends[:reads]), tuple(ends[reads:]), numbers, arrays)


def _whole(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > most:
        raise BundleError(f"{text[:20]!r} should be a whole number up to {most}")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text) if len(text) <= 32 else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) < 2**40:
        raise BundleError(f"{text[:40]!r} should be a number")
    return value


def _convolutions(layers: list[Layer]) -> list[Convolution]:
    """Return the shapes of the convolutions in the order of their weights."""
    found = []
    for layer in (layer for layer in layers if layer.kind == "Convolution"):
        get = layer.numbers.get
        outputs, weights = int(get(0, 0)), int(get(6, 0))
        plain = get(1) == 3 and get(11, 3) == 3 and get(5) == 1
        plain &= all(get(key, 1) == 1 for key in (2, 12, 3, 13, 4, 14, 15, 16)) and get(4) == 1 and not get(8, 0)
        if not plain or not 0 < outputs <= MAX_CHANNELS or weights % (9 * outputs) or not 0 < weights // (9 * outputs) <= MAX_CHANNELS:
            raise BundleError("a convolution is not of an RRDB network: 3x3 with a bias, stride 1 and padding 1 are expected")
        found.append(Convolution(weights // (9 * outputs), outputs))
    return found


def _names(count: int, ups: int) -> list[str]:
    """Return BasicSR's names of the convolutions of an RRDB network, in the order in which it computes."""
    blocks, rest = divmod(count - 4 - ups, 15)
    if blocks < 1 or rest or not 0 < ups <= 4:
        raise BundleError(
            f"{count} convolutions and {ups} enlargements make no RRDB network (ESRGAN); compact networks such as realesr-animevideov3 are "
            "of another kind"
        )
    body = [f"body.{block}.rdb{dense}.conv{conv}" for block in range(blocks) for dense in (1, 2, 3) for conv in range(1, 6)]
    return ["conv_first", *body, "conv_body", *(f"conv_up{up + 1}" for up in range(ups)), "conv_hr", "conv_last"]


class _Graph:
    """Numbers for what blobs hold: two blobs have one number exactly where they are computed alike."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], int] = {}
        self._terms: list[tuple[object, ...]] = []

    def of(self, *term: object) -> int:
        if term not in self._known:
            self._known[term] = len(self._terms)
            self._terms.append(term)
        return self._known[term]

    def sum(self, *parts: tuple[int, float]) -> int:
        """A sum of blobs by factors; a part that is itself one blob by a factor is taken apart."""
        flat = []
        for blob, factor in parts:
            kind, *inner = self._terms[blob]
            single = inner[0] if kind == "sum" and len(inner) == 1 else None
            flat.append((single[0], round(single[1] * factor, 4)) if isinstance(single, tuple) else (blob, round(factor, 4)))
        return self.of("sum", *sorted(flat))


def _check_graph(layers: list[Layer], names: list[str], ups: int) -> None:
    """Raise :class:`BundleError` where the layers do not compute what an RRDB network of these convolutions computes."""
    graph = _Graph()
    blobs: dict[str, int] = {}
    made = iter(names)
    last = -1
    for layer in layers:
        try:
            read = [blobs[name] for name in layer.inputs]
        except KeyError as error:
            raise BundleError(f"a layer reads the blob {str(error)[:40]}, which no layer before it writes") from error
        last = _evaluated(graph, layer, read, made)
        blobs.update(dict.fromkeys(layer.outputs, last))
    if last != _expected(graph, names, ups):
        raise BundleError("its layers are not those of an RRDB network (ESRGAN); other kinds of networks are not read from ncnn's files")


def _evaluated(graph: _Graph, layer: Layer, read: list[int], names: Iterator[str]) -> int:
    """Return the number of what a layer writes."""
    kind, get = layer.kind, layer.numbers.get
    if kind == "Input":
        return graph.of("input")
    if kind == "Split" and len(read) == 1:
        return read[0]
    if kind == "Convolution" and len(read) == 1:
        made = graph.of("conv", next(names), read[0])
        if get(9, 0) not in (0, 2) or (get(9, 0) == 2 and _rounded(layer.arrays.get(10, ())) != (SLOPE,)):
            raise BundleError("a convolution has another activation than a leaky ReLU of slope 0.2")
        return graph.of("leaky", made) if get(9, 0) == 2 else made
    if kind == "ReLU" and len(read) == 1 and round(get(0, 0.0), 4) == SLOPE:
        return graph.of("leaky", read[0])
    if kind == "Concat" and get(0, 0) == 0:
        return graph.of("concat", *read)
    if kind == "Interp" and len(read) == 1 and (get(0), get(1), get(2)) == (1, 2, 2):
        return graph.of("up", read[0])
    if kind == "Eltwise" and get(0) == 1:
        factors = _rounded(layer.arrays.get(1, ())) or (1.0,) * len(read)
        if len(factors) == len(read):
            return graph.sum(*zip(read, factors, strict=True))
    if kind == "BinaryOp" and get(0, 0) == 0 and len(read) == 2:
        return graph.sum(*((blob, 1.0) for blob in read))
    if kind == "BinaryOp" and get(0) == 2 and get(1) == 1 and len(read) == 1:
        return graph.sum((read[0], get(2, 0.0)))
    raise BundleError(f"a layer of type {kind[:40]!r} stands where an RRDB network (ESRGAN) has none")


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)


def _expected(graph: _Graph, names: list[str], ups: int) -> int:
    """Return the number of what an RRDB network computes (Wang et al. 2018, section 3.1)."""
    made = iter(names)

    def conv(blob: int, leaky: bool = False) -> int:
        done = graph.of("conv", next(made), blob)
        return graph.of("leaky", done) if leaky else done

    first = blob = conv(graph.of("input"))
    for _ in range((len(names) - 4 - ups) // 15):
        start = blob
        for _ in range(3):
            held = [blob]
            for _ in range(4):
                held.append(conv(graph.of("concat", *held) if len(held) > 1 else blob, leaky=True))
            blob = graph.sum((conv(graph.of("concat", *held)), SLOPE), (blob, 1.0))
        blob = graph.sum((blob, SLOPE), (start, 1.0))
    blob = graph.sum((first, 1.0), (conv(blob), 1.0))
    for _ in range(ups):
        blob = conv(graph.of("up", blob), leaky=True)
    return conv(conv(blob, leaky=True))


def _weights(path: Path, convolutions: list[Convolution], names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a `.bin` file: for each convolution four bytes that name the precision, its weights, and its biases."""
    size = path.stat().st_size
    if size > MAX_BIN_BYTES or size < sum(4 + 18 * one.inputs * one.outputs + 4 * one.outputs for one in convolutions):
        raise BundleError(f"{path.name} has {size} bytes, which do not fit the layers; it is cut off or belongs to another .param")
    data = bytearray(path.read_bytes())
    at = 0
    for one, name in zip(convolutions, names, strict=True):
        count = one.inputs * one.outputs * 9
        tag = int.from_bytes(data[at : at + 4], "little")
        if tag not in (HALF, FULL):
            raise BundleError(f"{path.name}: the weights of {name} are stored in a way that is not read (quantized); use the plain network")
        length = -(-2 * count // 4) * 4 if tag == HALF else 4 * count
        if at + 4 + length + 4 * one.outputs > size:
            raise BundleError(f"{path.name} ends in the weights of {name}; it is cut off or belongs to another .param")
        kind = torch.float16 if tag == HALF else torch.float32
        weight = torch.frombuffer(data, dtype=kind, count=count, offset=at + 4).float()
        yield f"{name}.weight", weight.reshape(one.outputs, one.inputs, 3, 3).clone()
        at += 4 + length
        yield f"{name}.bias", torch.frombuffer(data, dtype=torch.float32, count=one.outputs, offset=at).clone()
        at += 4 * one.outputs
    if at != size:
        raise BundleError(f"{path.name} has {size - at} bytes more than its layers need; it belongs to another .param")
