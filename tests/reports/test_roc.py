"""ROC curves of scores whose areas are known by counting pairs."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import ShapeError
from deepprobe.reports import roc_curves


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def cases():
    outcome = [True, True, False, True, False, False]
    scores = {"perfect": [6, 5, 2, 4, 1, 0], "middling": [6, 1, 5, 4, 3, 2], "constant": [1.0] * 6}
    return pd.concat(
        pd.DataFrame({"predictor": name, "score": score, "outcome": outcome}) for name, score in scores.items()
    )


def test_areas_in_the_legend_are_shares_of_pairs_in_order():
    frame = cases()
    texts = [text.get_text() for text in roc_curves(frame).get_legend().get_texts()]
    for name, text in zip(frame["predictor"].unique(), texts, strict=True):
        part = frame[frame["predictor"] == name]
        good, bad = (part.loc[part["outcome"] == which, "score"].to_numpy() for which in (True, False))
        wins = np.mean([float(g > b) + 0.5 * float(g == b) for g in good for b in bad])
        assert text == f"{name}, {wins:.2f}"


def test_curves_run_from_corner_to_corner():
    ax = roc_curves(cases())
    for line in ax.lines:
        assert (line.get_xdata()[0], line.get_ydata()[0]) == (0, 0)
        assert (line.get_xdata()[-1], line.get_ydata()[-1]) == (1, 1)
    assert len(ax.lines) == 4  # and the diagonal


def test_cases_without_a_score_are_left_out():
    frame = cases().assign(score=np.nan)
    assert [text.get_text() for text in roc_curves(frame).texts] == ["no scores"]


def test_what_has_no_curve_is_refused():
    with pytest.raises(ShapeError, match="the table has no column score"):
        roc_curves(cases().drop(columns="score"))
    with pytest.raises(ShapeError, match="all outcomes of 'perfect' are True"):
        roc_curves(cases().assign(outcome=True))
