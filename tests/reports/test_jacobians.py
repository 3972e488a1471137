"""Figures of Jacobians show the numbers of their tables."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.reports import autocorrelation_by_lag, jacobians_by_depth
from deepprobe.reports.jacobians import MEASURES


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def table(values, **columns):
    return pd.DataFrame({"depth": range(len(values)), "jacobian_to_output": values, "status": "finite", **columns})


def test_a_line_a_network_with_quartiles_and_crosses_where_samples_were_lost():
    plain = table([1e9, 1e5, 2.0], jacobian_to_output_q25=[1e8, 1e4, 1], jacobian_to_output_q75=[1e10, 1e6, 3])
    broken = table([np.nan, 0.0, 2.0]).assign(status=["nonfinite", "zero", "finite"])
    ax = jacobians_by_depth({"plain_net": plain, "$broken$": broken})
    lines = [line for line in ax.get_lines() if line.get_marker() != "x"]
    np.testing.assert_array_equal(lines[0].get_ydata(), [1e9, 1e5, 2.0])
    np.testing.assert_array_equal(lines[1].get_ydata(), [np.nan, np.nan, 2.0])
    crosses = [line.get_xdata().tolist() for line in ax.get_lines() if line.get_marker() == "x"]
    assert crosses == [[], [0]]
    assert len(ax.collections) == 1
    assert ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["plain_net", r"\$broken\$"]


def test_cosines_stand_on_a_linear_axis_beside_nothing_in_common():
    ax = jacobians_by_depth({"a": table([1.0, 1]).assign(gradient_cosine=[-0.1, 1])}, measure="gradient_cosine")
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [-0.1, 1])
    assert ax.get_yscale() == "linear"
    assert "nothing in common" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_nothing_finite_is_said_and_what_is_not_there_is_refused():
    ax = jacobians_by_depth({"a": table([np.nan, np.inf, 0.0])})
    assert ax.texts[0].get_text() == "no finite jacobian to output was found"
    with pytest.raises(ConfigError, match=r"^measure='norm' is none of jacobian_to_output, "):
        jacobians_by_depth({}, measure="norm")
    for measure in list(MEASURES)[1:]:
        with pytest.raises(ShapeError, match=f"^none of the tables has a column {measure}$"):
            jacobians_by_depth({"a": table([1.0])}, measure=measure)


def test_autocorrelation_is_drawn_beside_both_noises():
    lags = {"lag": range(4), "white": [1, -0.1, -0.1, 0], "white_band": 0.3, "brown": [1, 0.9, 0.8, 0.7]}
    tables = {name: pd.DataFrame({**lags, "autocorrelation": [1, v, v, v]}) for name, v in (("a", 0.1), ("b", 0.7))}
    ax = autocorrelation_by_lag(tables)
    drawn = [line.get_ydata().tolist() for line in ax.get_lines()]
    assert drawn == [[1, 0.9, 0.8, 0.7], [1, 0.1, 0.1, 0.1], [1, 0.7, 0.7, 0.7]]
    shown = [t.get_text() for t in ax.get_legend().get_texts()]
    assert shown == ["a", "b", "white noise", "brown noise"]
    with pytest.raises(ShapeError):
        autocorrelation_by_lag({"a": tables["a"], "b": tables["b"][:3]})
    with pytest.raises(ShapeError):
        autocorrelation_by_lag({})
