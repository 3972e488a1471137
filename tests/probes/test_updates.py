"""What an update did to each kernel, against NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from deepprobe.hooks.kernels import kernels
from deepprobe.probes.updates import gradients_of, norms, update_table


def test_an_update_is_the_difference_of_weights_over_the_weights_before():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4))
    chosen = kernels(model)
    before = [kernel.parameter.detach().clone() for kernel in chosen]
    model(torch.randn(5, 2, 4, 4)).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.3).step()
    table = update_table(chosen, before)
    assert table[["layer", "tap", "view"]].values.tolist() == [["0", "update", "kernel"], ["2", "update", "kernel"]]
    for row, kernel, old in zip(table.itertuples(), chosen, before, strict=True):
        old, new = old.double().numpy(), kernel.parameter.detach().double().numpy()
        gradient = kernel.parameter.grad.double().numpy()
        assert row.update_ratio == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-6)
        assert row.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
        assert row.weight_norm == pytest.approx(np.linalg.norm(new), rel=1e-12)


def test_frozen_unreached_and_zero_kernels():
    model = nn.ModuleList([nn.Linear(3, 3, bias=False) for _ in range(3)])
    model[0].weight.requires_grad = False
    nn.init.zeros_(model[2].weight)
    chosen = kernels(model)
    before = [kernel.parameter.detach().clone() for kernel in chosen]
    with torch.no_grad():
        model[2].weight += 1
    table = update_table(chosen, before)
    np.testing.assert_array_equal(table["gradient_norm"], [np.nan, 0.0, 0.0])
    np.testing.assert_array_equal(table["update_ratio"], [0.0, 0.0, np.inf])


def test_norms_do_not_overflow_in_float32_and_take_sparse_gradients():
    assert norms([torch.full((4,), 1e30)]).item() == pytest.approx(2e30, rel=1e-6)
    model = nn.Embedding(5, 2, sparse=True)
    model(torch.tensor([1, 1])).sum().backward()
    assert gradients_of(kernels(model))[0].tolist() == [[0, 0], [2, 2], [0, 0], [0, 0], [0, 0]]
