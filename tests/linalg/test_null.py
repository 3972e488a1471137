"""The Gaussian null, against matrices drawn in full."""

from __future__ import annotations

import numpy as np
import pytest

from deepprobe.linalg.null import gaussian_condition_number


@pytest.mark.parametrize(("n", "d"), [(40, 10), (10, 40), (300, 16), (64, 60)])
def test_against_full_draws(n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [np.linalg.cond(rng.standard_normal((n, d))) for _ in range(400)]
    low, high = np.quantile(drawn, [0.05, 0.95])
    assert low <= gaussian_condition_number(n, d) <= high


def test_shapes() -> None:
    assert gaussian_condition_number(40, 10) == gaussian_condition_number(10, 40)
    assert np.isnan(gaussian_condition_number(0, 4))
    assert np.isnan(gaussian_condition_number(4, 0))
    assert gaussian_condition_number(17, 1) == 1.0
    assert gaussian_condition_number(128, 65_536) == pytest.approx(1.09, abs=0.01)


def test_large_matrices_take_the_limit() -> None:
    root = np.sqrt(2000 / 50_000)
    assert gaussian_condition_number(50_000, 2000) == pytest.approx((1 + root) / (1 - root), rel=1e-12)


def test_the_limit_for_square_matrices_continues_the_draws() -> None:
    rng = np.random.default_rng(0)
    drawn = np.median([np.linalg.cond(rng.standard_normal((30, 30))) for _ in range(4000)])
    assert gaussian_condition_number(4096, 4096) / 4096 == pytest.approx(drawn / 30, rel=0.1)
