"""SynFlow against sums over paths, its conservation law, and depth 164."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from deepprobe.errors import ConfigError, NonFiniteError
from deepprobe.models import create_model
from deepprobe.pruning.criteria import Subject
from deepprobe.pruning.criteria.synflow import synflow
from deepprobe.pruning.masks import Masks


def scores_of(model: nn.Module, *shape: int) -> dict[str, Tensor]:
    return synflow(Subject(model, Masks.dense(model), batches=[(torch.randn(3, *shape), torch.zeros(3))]))


def test_scores_are_sums_over_all_paths_through_a_weight() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 5, bias=False), nn.ReLU(),
                        nn.Linear(5, 2, bias=False))  # fmt: skip
    a, b, c = (net[i].weight.detach().double().abs() for i in (0, 2, 4))
    expected = [torch.zeros_like(w) for w in (a, b, c)]
    for i, j, k, l in product(range(3), range(4), range(5), range(2)):  # noqa: E741
        path = a[j, i] * b[k, j] * c[l, k]
        expected[0][j, i] += path
        expected[1][k, j] += path
        expected[2][l, k] += path
    for found, wanted in zip(scores_of(net, 3).values(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_trained_batch_normalisation_stays_linear() -> None:
    """Running means of a trained network would cut off what lies below them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    net[1].running_mean.fill_(100.0)
    net[1].running_var.fill_(4.0)
    a, b = net[0].weight.detach().double().abs(), net[3].weight.detach().double().abs()
    found = scores_of(net, 3)
    expected = a * b.sum(0)[:, None] / (4.0 + 1e-5) ** 0.5
    torch.testing.assert_close(found["0.weight"], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["resnet164", "plainnet164", "resnet20"])
def test_flow_is_conserved_at_any_depth(name: str) -> None:
    """Layers that every path passes: stem and classifier hold the same sum, up to the biases, which are zero here."""
    net = create_model(name, num_classes=10, in_channels=3, input_size=8, seed=0)
    found = scores_of(net, 3, 8, 8)
    sums = [float(score.sum()) for score in found.values()]
    assert all(0 < s < float("inf") for s in sums)
    assert sums[0] == pytest.approx(sums[-1], rel=1e-9)
    if name.startswith("plain"):
        assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-9)
    if name != "resnet20":
        assert sums[0] > torch.finfo(torch.float32).max, "float32 would do"


def test_what_cannot_flow() -> None:
    net = nn.Sequential(*(nn.Linear(50, 50, bias=False) for _ in range(3)))
    with torch.no_grad():
        net[1].weight.zero_()
    with pytest.raises(NonFiniteError, match=r"the synaptic flow of this Sequential is 0\.0"):
        scores_of(net, 50)
    deep = nn.Sequential(*(nn.Linear(50, 50, bias=False) for _ in range(200)))
    with torch.no_grad():
        for p in deep.parameters():
            p.fill_(10.0)
    with pytest.raises(NonFiniteError, match="the synaptic flow of this Sequential is inf: its weights are too large"):
        scores_of(deep, 50)


def test_inputs_must_be_numbers() -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(ConfigError, match="needs floating-point inputs"):
        synflow(Subject(net, Masks.dense(net), batches=[(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2))]))
