"""Bidiagonalisation against SciPy's singular values of the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from deepprobe.linalg.golub_kahan import LargestValues, golub_kahan


def decomposed(matrices: Tensor, steps: int, *, seed: int = 0) -> LargestValues:
    start = torch.randn(len(matrices), matrices.shape[2], generator=torch.Generator().manual_seed(seed)).double()
    return golub_kahan(
        lambda v: torch.einsum("bnd,bd->bn", matrices, v),
        lambda u: torch.einsum("bnd,bn->bd", matrices, u),
        start,
        steps=steps,
    )


def exact(matrices: Tensor) -> np.ndarray:
    return np.stack([scipy.linalg.svdvals(m.numpy()) for m in matrices])


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 12, 20), (3, 20, 12), (1, 7, 7)])
def test_as_many_steps_as_there_are_values_give_them_all(shape):
    matrices = random(*shape)
    found = decomposed(matrices, min(shape[1:]))
    np.testing.assert_allclose(found.values, exact(matrices), rtol=1e-12)


def test_a_few_steps_give_the_largest_from_below_within_the_residual():
    matrices = random(4, 60, 40) * torch.logspace(0, -3, 40)
    reference = exact(matrices)
    for steps in (3, 6, 12):
        found = decomposed(matrices, steps)
        assert (found.values <= reference[:, :steps] * (1 + 1e-12)).all()
        distance = np.abs(found.values[:, :, None] - reference[:, None]).min(2)
        assert (distance <= found.residuals + 1e-13).all()
    np.testing.assert_allclose(found.values[:, 0], reference[:, 0], rtol=1e-9)
    assert (found.residuals[:, 0] < 1e-3 * found.values[:, 0]).all()


def test_no_value_appears_twice_where_one_dominates():
    matrices = torch.diag(torch.logspace(0, -12, 40, dtype=torch.float64))[None]
    found = decomposed(matrices, 30)
    assert np.isclose(found.values, 1.0, rtol=1e-6).sum() == 1


def test_ranks_that_end_early_and_nothing_at_all():
    low = random(1, 30, 2) @ random(1, 2, 20)
    matrices = torch.cat([low, torch.zeros(1, 30, 20, dtype=torch.float64), torch.ones(1, 30, 20).double()])
    found = decomposed(matrices, 6)
    np.testing.assert_allclose(found.values, exact(matrices)[:, :6], atol=1e-12)
    assert (found.values[1] == 0).all()


def test_what_is_not_finite_is_nan_and_leaves_the_others_alone():
    matrices = random(3, 9, 8)
    matrices[1, 2, 3] = torch.inf
    found = decomposed(matrices, 8)
    assert np.isnan(found.values[1]).all()
    np.testing.assert_allclose(found.values[[0, 2]], exact(matrices[[0, 2]]), rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_neither_large_nor_small_matrices_overflow(factor):
    matrices = random(2, 6, 5)
    np.testing.assert_allclose(decomposed(matrices * factor, 5).values, exact(matrices) * factor, rtol=1e-12)
