"""What the tests of speeding networks up share: a block that is known by its name, a clock, torch.compile without a compiler."""

from __future__ import annotations

import torch
from rapiddraw.core.speed import accelerator
from torch import nn
from torch.nn import Conv2d

X = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(1))


class ResnetBlock(nn.Module):
    """Stands for the libraries' blocks of that name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv2d(width, width, 3, padding=1)

    def forward(self, x, temb=None):
        return x + self.conv(torch.relu(x))


def words(way):
    """The name of a way to compute; of a block's :class:`Way` what it changes: `bf16`, `last` (channels-last memory), both or neither."""
    return [way] if isinstance(way, str) else ["bf16"] * way.bf16 + ["last"] * way.channels_last


def fastest(name):
    """A clock by which everything called `name` is fastest."""

    def seconds(ways, repeats=1):
        for way in ways.values():
            way()
        return {key: 0.5 if name in words(key) else 1.0 for key in ways}

    return seconds


def fake_compiler(monkeypatch, run=None):
    """torch.compile without a compiler: the graph as traced. Returns the list of graphs."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return (run or (lambda graph: graph.forward))(graph)

    real = accelerator.Compiled
    monkeypatch.setattr(accelerator, "Compiled", lambda function, one_input: real(function, one_input, backend))
    return graphs
