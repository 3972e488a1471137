"""The weights of a unit against those that a gradient reaches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepprobe.hooks.unit_weights import unit_weights

LAYERS = (
    (nn.Linear(3, 5), (3,)), (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)), (nn.Conv1d(4, 8, 2, groups=4), (4, 5)),
    (nn.ConvTranspose2d(6, 4, 2, groups=2), (6, 3, 3)), (nn.ConvTranspose1d(2, 5, 3), (2, 4)),
)  # fmt: skip


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_rows_are_the_weights_that_make_or_read_a_unit(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    made, read = (unit_weights(layer, tap) for tap in ("output", "input"))
    x = torch.rand(1, *shape)
    out = layer(x)
    assert made is not None
    assert read is not None
    assert (len(made), len(read)) == (out.shape[1], x.shape[1])
    for unit, row in enumerate(made):
        (gradient,) = torch.autograd.grad(layer(x)[:, unit].sum(), layer.weight)
        assert torch.equal(row.sort().values, layer.weight[gradient != 0].detach().double().sort().values)
    for unit, row in enumerate(read):
        only = torch.zeros_like(x)
        only[:, unit] = x[:, unit]
        (gradient,) = torch.autograd.grad(layer(only).sum(), layer.weight)
        assert torch.equal(row.sort().values, layer.weight[gradient != 0].detach().double().sort().values)


def test_other_layers_and_taps_have_none() -> None:
    assert unit_weights(nn.BatchNorm1d(3), "output") is None
    assert unit_weights(nn.Linear(3, 2), "block") is None
    assert unit_weights(None, "input") is None
