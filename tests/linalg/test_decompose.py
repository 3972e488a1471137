"""Singular values of small factors."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from deepprobe.linalg.decompose import singular_values, without_common_direction


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 1), (1, 7)])
def test_against_scipy(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_allclose(singular_values(matrix), scipy.linalg.svdvals(matrix), rtol=1e-13)


def test_zero_columns_are_exact_zeros() -> None:
    matrix = np.random.default_rng(0).standard_normal((9, 4))
    matrix[:, 2] = 0
    assert singular_values(matrix)[-1] == 0.0


def test_nothing() -> None:
    assert singular_values(np.zeros((0, 3))).shape == (0,)
    assert singular_values(np.ones((4, 3)), 0).shape == (0,)


def test_falls_back_where_divide_and_conquer_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*args: object, **kwargs: object) -> None:
        raise scipy.linalg.LinAlgError("did not converge")

    matrix = np.random.default_rng(0).standard_normal((6, 4))
    exact = np.linalg.svd(matrix, compute_uv=False)
    monkeypatch.setattr(scipy.linalg, "svdvals", give_up)
    np.testing.assert_allclose(singular_values(matrix), exact, rtol=1e-13)


def test_without_common_direction() -> None:
    factor = np.random.default_rng(0).standard_normal((6, 5))
    centred = factor - factor.mean(axis=1, keepdims=True)
    assert without_common_direction(factor).shape == (6, 4)
    np.testing.assert_allclose(
        np.linalg.svd(without_common_direction(factor), compute_uv=False),
        np.linalg.svd(centred, compute_uv=False)[:4],
        rtol=1e-12,
    )
