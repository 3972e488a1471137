"""Concentration against loops over pairs, and at its extremes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.measures.concentration import gini, lorenz_curve, top_share

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=12).filter(lambda values: sum(values) > 1e-3)


@given(VALUES)
def test_gini_is_the_mean_difference_of_pairs(values: list[float]) -> None:
    pairs = [abs(a - b) for a in values for b in values]
    assert gini(values) == pytest.approx(np.mean(pairs) / (2 * np.mean(values)), abs=1e-9)


@given(VALUES, st.floats(0.01, 1e3))
def test_gini_does_not_change_with_scale_or_copies(values: list[float], factor: float) -> None:
    assert gini([factor * v for v in values]) == pytest.approx(gini(values), abs=1e-9)
    assert gini(values * 3) == pytest.approx(gini(values), abs=1e-9)


@given(VALUES, st.integers(0, 12))
def test_top_share_of_whole_units_is_their_sum(values: list[float], count: int) -> None:
    count = min(count, len(values))
    expected = sum(sorted(values, reverse=True)[:count]) / sum(values)
    assert top_share(values, count / len(values)) == pytest.approx(expected, abs=1e-9)


@given(VALUES)
def test_the_curve_is_convex_from_0_to_1(values: list[float]) -> None:
    curve = lorenz_curve(values)
    assert curve[0] == 0
    assert curve[-1] == 1
    assert (np.diff(curve, n=2) >= -1e-12).all()


def test_a_part_of_a_unit_holds_a_part_of_its_value() -> None:
    assert top_share([1.0, 3.0], 0.1) == pytest.approx(0.2 * 0.75)
    assert top_share([1.0, 1.0], 0.0) == 0.0


def test_extremes() -> None:
    assert gini([2.0] * 5) == pytest.approx(0.0, abs=1e-15)
    assert gini([0.0] * 9 + [1e308]) == pytest.approx(0.9)
    assert gini([1e308] * 4) == pytest.approx(0.0, abs=1e-15)
    for values in ([0.0, 0.0], [1.0, np.nan], [1.0, np.inf]):
        assert np.isnan(gini(values))
        assert np.isnan(top_share(values, 0.1))


def test_what_has_no_curve() -> None:
    with pytest.raises(ShapeError, match="at least one value, not of shape"):
        lorenz_curve([])
    with pytest.raises(ConfigError, match="the least is -1"):
        gini([1.0, -1.0])
    with pytest.raises(ConfigError, match="fraction=2 is not between"):
        top_share([1.0], 2)
