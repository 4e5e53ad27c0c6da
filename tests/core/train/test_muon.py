"""Muon: orthogonal steps for matrices and convolutions."""

from __future__ import annotations

import pytest
import torch
from rapiddraw.core.train.muon import Muon, matrices_of, orthogonalised
from torch import nn


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 32)])
def test_every_singular_value_comes_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.5 and values.max() < 1.3
    assert (orthogonalised(matrix * 1e-4) - orthogonalised(matrix)).abs().max() < 1e-2  # the scale of a gradient does not matter


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3, 3)])
def test_a_step_has_the_size_that_its_rule_says(shape):
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    Muon([weight], lr=0.1).step()
    rows, columns = weight.flatten(1).shape
    rms = weight.detach().flatten(1).norm() / (min(rows, columns) ** 0.5)  # of an orthogonal matrix times its factor
    assert float(rms) == pytest.approx(0.1 * 0.2 * max(rows, columns) ** 0.5, rel=0.3)


def test_it_descends_and_resumes_exactly():
    def steps(count, weight, optimizer):
        for _ in range(count):
            optimizer.zero_grad()
            ((weight @ weight.T - torch.eye(4)) ** 2).sum().backward()
            optimizer.step()

    def error(weight):
        return float(((weight.detach() @ weight.detach().T - torch.eye(4)) ** 2).sum())

    def start():
        weight = nn.Parameter(torch.randn(4, 6, generator=torch.Generator().manual_seed(2)))
        return weight, Muon([weight], lr=0.1)

    whole, optimizer = start()
    first = error(whole)
    steps(40, whole, optimizer)
    assert error(whole) < 0.2 * first
    halved, optimizer = start()
    steps(20, halved, optimizer)
    again, second = start()
    again.data.copy_(halved.data)
    second.load_state_dict(optimizer.state_dict())
    steps(20, again, second)
    assert torch.equal(again, whole)


def test_vectors_and_the_layers_at_the_ends_are_left_to_another_optimizer():
    network = nn.Sequential(*[nn.modules.conv.Conv2d(a, b, 3) for a, b in ((3, 8), (8, 8), (8, 3))])
    inner, rest = matrices_of(network, [network[0], network[2]])
    assert [tuple(p.shape) for p in inner] == [(8, 8, 3, 3)]
    assert len(inner) + len(rest) == len(list(network.parameters()))
    with pytest.raises(ValueError, match="fewer than two dimensions"):
        Muon([torch.zeros(3, requires_grad=True)])
