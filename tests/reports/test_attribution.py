"""Figures of attributions show the numbers of their frames."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import ConfigError
from deepprobe.measures.concentration import lorenz_curve
from deepprobe.reports import (
    ablation_by_fraction,
    agreement_by_depth,
    attribution_pictures,
    concentration_by_depth,
    lorenz_by_layer,
)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def drawn(ax, index):
    return ax.get_lines()[index].get_xydata().tolist()


def names(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_concentration_is_a_line_a_network_with_the_range_of_seeds():
    rows = [
        {"network": name, "seed": seed, "depth": depth, "gini": gini + seed / 10}
        for name, gini in (("plain", 0.5), ("residual", 0.2))
        for seed in (0, 1)
        for depth in (1, 2)
    ]
    ax = concentration_by_depth(pd.DataFrame(rows))
    assert names(ax) == ["plain", "residual"]
    np.testing.assert_allclose(drawn(ax, 0), [[1, 0.55], [2, 0.55]])
    band = ax.collections[1].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.2, 0.3))
    with pytest.raises(ConfigError, match="measure='top_1_share'"):
        concentration_by_depth(pd.DataFrame(rows), measure="top_1_share")


def test_nothing_to_draw_is_said():
    ax = concentration_by_depth(pd.DataFrame({"depth": [1], "gini": [np.nan]}))
    assert "no layer has a Gini coefficient" in [text.get_text() for text in ax.texts]


def test_lorenz_curves_of_some_layers():
    units = pd.DataFrame({"layer": np.repeat(list("abcdefgh"), 3), "depth": np.repeat(range(1, 9), 3)})
    units["conductance"] = np.tile([3.0, 0.0, 1.0], 8)
    ax = lorenz_by_layer(units)
    assert len(ax.get_lines()) == 7
    assert names(ax)[0] == "depth 1"
    assert names(ax)[5] == "depth 8"
    np.testing.assert_allclose([y for _, y in drawn(ax, 0)], lorenz_curve([3.0, 0.0, 1.0]))
    with pytest.raises(ConfigError, match="not in this table of units"):
        lorenz_by_layer(units, layers=["z"])


def test_ablation_shows_rankings_orders_and_the_range_of_random():
    rows = [
        {"ranking": ranking, "order": order, "repeat": repeat, "fraction": f, "accuracy": a, "loss": 1 + f}
        for ranking, order, repeat, last in (
            ("conductance", "top", 0, 0.1),
            ("conductance", "bottom", 0, 0.8),
            ("random", "random", 0, 0.4),
            ("random", "random", 1, 0.6),
        )
        for f, a in ((0.0, 0.9), (0.5, last))
    ]
    ax = ablation_by_fraction(pd.DataFrame(rows))
    assert [drawn(ax, i)[1] for i in range(3)] == [[0.5, 0.1], [0.5, 0.8], [0.5, 0.5]]
    assert names(ax) == ["conductance", "at random", "first taken first", "last taken first"]
    assert ablation_by_fraction(pd.DataFrame(rows), measure="loss").get_yscale() == "log"
    with pytest.raises(ConfigError, match="measure='error'"):
        ablation_by_fraction(pd.DataFrame(rows), measure="error")


def test_agreement_is_a_line_a_pair():
    rows = [
        {"depth": depth, "first": "conductance", "second": second, "spearman": value}
        for depth in (1, 2)
        for second, value in (("weight_magnitude", 0.5), ("activation_variance", -0.25))
    ]
    ax = agreement_by_depth(pd.DataFrame(rows))
    assert names(ax) == ["conductance / magnitude", "conductance / variance"]
    assert drawn(ax, 1) == [[1, 0.5], [2, 0.5]]


@dataclass(frozen=True, eq=False)
class Shown:
    images: np.ndarray
    values: np.ndarray
    target: np.ndarray
    predicted: np.ndarray


def test_pictures_stand_side_by_side():
    images = np.arange(32.0).reshape(2, 1, 4, 4)
    values = np.stack([np.linspace(-1, 1, 16).reshape(1, 4, 4), np.full((1, 4, 4), np.nan)])
    one = Shown(images, values, np.array([3, -1]), np.array([3, 5]))
    figure = attribution_pictures({"<plain>": one, "residual": one})
    assert [ax.get_title() for ax in figure.axes[:3]] == ["image", "<plain>", "residual"]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), values[0, 0])
    assert figure.axes[1].images[0].get_clim()[1] == pytest.approx(np.percentile(np.abs(values[0]), 99))
    assert not figure.axes[4].images  # not finite: grey
    assert figure.get_supxlabel() == "red adds to the score, blue takes from it"
    assert figure.axes[4].get_xlabel() == "says 5"
    other = Shown(images + 1, values, one.target, one.predicted)
    with pytest.raises(ConfigError, match="these differ"):
        attribution_pictures({"a": one, "b": other})
    with pytest.raises(ConfigError, match="no pictures"):
        attribution_pictures({})
