"""Figures of units and of similarity show the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.reports import (
    distribution_by_depth,
    similarity_heatmap,
    unit_states_heatmap,
    units_measure_by_depth,
)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def median(ax):
    return ax.lines[0].get_ydata()


def histogram():
    rows = [(1, 0.0, 0.0, 10), (1, 1.0, 2.0, 80), (1, 4.0, 5.0, 10), (2, -2.0, -1.0, 50), (2, 0.0, 0.0, 51)]
    return pd.DataFrame(rows, columns=["depth", "low", "high", "count"]).assign(tap="input", layer="a")


def test_quantiles_lie_in_their_bins():
    ax = distribution_by_depth(histogram())
    np.testing.assert_allclose(median(ax), [1.5, 0.0])
    outer, _, inner = (c.get_paths()[0].vertices[:, 1] for c in ax.collections)
    assert (outer.min(), outer.max()) == (-2.0, 5.0)
    np.testing.assert_allclose(inner.max(), 1.0 + 65 / 80)
    assert ax.get_yscale() == "symlog"
    doubled = distribution_by_depth(pd.concat([histogram(), histogram().assign(layer="b")]))
    np.testing.assert_allclose(median(doubled), median(ax))


def test_a_frame_without_that_tap_or_without_values_is_said():
    with pytest.raises(ConfigError, match="tap='weight' is not in this frame; it has 'input'"):
        distribution_by_depth(histogram(), tap="weight")
    empty = distribution_by_depth(histogram().assign(count=0))
    assert [t.get_text() for t in empty.texts] == ["no value was finite"]
    with pytest.raises(ShapeError, match="lacks low, high, count; distributions makes one"):
        distribution_by_depth(pd.DataFrame({"tap": ["input"], "depth": [1]}))


def test_measures_of_units_are_their_quantiles():
    values = np.random.default_rng(0).random((3, 21))
    frame = pd.DataFrame({"depth": np.repeat([1, 2, 3], 21), "firing_rate": values.ravel()})
    ax = units_measure_by_depth(pd.concat([frame, pd.DataFrame({"depth": [4], "firing_rate": [np.nan]})]))
    np.testing.assert_allclose(median(ax), np.median(values, axis=1))
    assert ax.get_ylabel() == "firing rate"
    none = units_measure_by_depth(frame.assign(firing_rate=np.nan))
    assert [t.get_text() for t in none.texts] == ["no firing rate was measured"]


def test_states_are_shares_by_depth_and_step():
    frame = pd.DataFrame({"step": [0] * 4 + [9] * 4, "depth": [1, 1, 2, 2] * 2, "dead": [0, 0, 0, 1, 1, 1, 0, 1]})
    ax = unit_states_heatmap(frame)
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()).reshape(2, 2), [[0, 0.5], [1, 0.5]])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "9"]
    nothing = unit_states_heatmap(frame.assign(dead=np.nan))
    assert [t.get_text() for t in nothing.texts] == ["no unit was looked at for dead"]


def pairs(values):
    n, m = values.shape
    places = [(i, j) for i in range(n) for j in range(m)]
    columns = {"layer_a": [f"z{-i}" for i, _ in places], "depth_a": [i for i, _ in places]}
    columns |= {"layer_b": [f"y{-j}" for _, j in places], "depth_b": [j for _, j in places]}
    return pd.DataFrame(columns).assign(call_a=1, call_b=1, cka=values.ravel())


def test_similarity_stands_in_the_order_of_depth():
    values = np.array([[1.0, 0.2, 0.4], [0.1, 0.9, np.nan]])
    ax = similarity_heatmap(pairs(values), names=("plain_1", "residual"))
    np.testing.assert_allclose(np.ma.filled(ax.collections[0].get_array(), np.nan).reshape(2, 3), values)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("depth, residual", "depth, plain_1")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["no variation, or not finite"]
    whole = similarity_heatmap(pairs(np.eye(3)))
    assert whole.get_legend() is None
    with pytest.raises(ConfigError, match="value='cca' is none of cka, overlap"):
        similarity_heatmap(pairs(values), value="cca")
    with pytest.raises(ShapeError, match="lacks overlap; similarity makes one"):
        similarity_heatmap(pairs(values), value="overlap")
