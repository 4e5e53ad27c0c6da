"""Edge NMSE, IoU, CLIP score and the judge's inception score, on cases whose answer is known."""

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.metrics.control import clip_score, edge_f_score, edge_nmse, inception_score, mean_iou


def test_edge_nmse_is_0_for_the_same_1_for_nothing_and_counts_what_is_too_much():
    edges = torch.zeros(3, 4, 4)
    edges[:, 1] = 1
    found = edges.clone()
    found[1] = 0
    found[2, 2] = 1
    assert edge_nmse(found, edges).tolist() == [0.0, 1.0, 1.0]
    with pytest.raises(InputError, match="equal"):
        edge_nmse(found, edges[:1])


def test_iou_is_the_mean_over_the_classes_that_occur():
    truth = torch.tensor([[[0, 0, 1, 1]]])
    assert mean_iou(truth, truth, 4) == 1.0
    assert mean_iou(torch.tensor([[[0, 1, 1, 1]]]), truth, 4) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert mean_iou(torch.tensor([[[2, 2, 2, 2]]]), truth, 4) == 0.0


def test_clip_score_is_a_cosine():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [3.0, 0.0]])
    b = torch.tensor([[0.0, 2.0], [2.0, 2.0], [-1.0, 0.0]])
    assert clip_score(a, b).tolist() == pytest.approx([0.0, 1.0, -1.0])


def test_inception_score_runs_from_1_to_the_number_of_values():
    sure = 50 * torch.eye(4)
    assert inception_score({"shape": sure}) == pytest.approx(4.0, rel=1e-3)
    assert inception_score({"shape": sure[:1].expand(4, -1)}) == pytest.approx(1.0, abs=1e-6)
    assert inception_score({"shape": torch.zeros(4, 4)}) == pytest.approx(1.0, abs=1e-6)
    assert inception_score({"shape": sure, "skin": torch.zeros(4, 9)}) == pytest.approx(2.0, rel=1e-3)
    with pytest.raises(InputError, match="two pictures"):
        inception_score({"shape": sure[:1]})


def test_edge_f_score_forgives_two_pixels_and_nmse_none():
    edges = torch.zeros(4, 16, 16)
    edges[:, 8] = 1
    found = torch.zeros_like(edges)
    found[0, 8] = 1  # the same
    found[1, 10] = 1  # two pixels beside
    found[2, 11] = 1  # three
    assert edge_f_score(found, edges).tolist() == pytest.approx([1, 1, 0, 0])
    assert edge_nmse(found, edges)[1] == 2 and edge_f_score(found, edges, 3)[2] == 1
    half = edges[:1].clone()
    half[0, 8, 6:] = 0  # six of sixteen pixels; two more are within the tolerance
    assert edge_f_score(half, edges[:1]).tolist() == pytest.approx([2 * 0.5 / 1.5])
    assert edge_f_score(found, edges).equal(edge_f_score(edges, found).where(found.flatten(1).any(1), torch.zeros(4)))
    assert edge_f_score(found[:1], 0 * edges[:1]).isnan().all()
    with pytest.raises(InputError, match="equal"):
        edge_f_score(found, edges[:1])
    with pytest.raises(InputError, match="tolerance"):
        edge_f_score(found, edges, -1)
