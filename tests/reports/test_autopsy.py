"""The figure of an autopsy."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.reports.autopsy import MAPS, SHOWN_ON, autopsy_figure, autopsy_map, loss_by_step, value_limits

COLUMNS = ["step", "until", "rule", "says", "layer", "depth", "measure", "value", "threshold", "source"]


def tables(*, n_events=2):
    at = [(step, depth) for step in range(4) for depth in (1, 2, 3)]
    step, depth = np.array(at).T
    layers = pd.DataFrame({"step": step, "depth": depth, "rms": 10.0**step, "numerical_rank": 8.0 - depth})
    layers = layers.assign(dead_share=np.nan, effective_rank=9.0 - depth)
    kernels = pd.DataFrame({"step": step, "depth": depth, "gradient_norm": 10.0 ** (-depth), "update_ratio": 0.1})
    kernels = kernels.assign(weight_rms=1.0)[kernels["step"] > 0]
    kernels.iloc[0, kernels.columns.get_loc("update_ratio")] = np.inf
    steps = pd.DataFrame({"step": range(4), "loss": [2.0, 1.0, np.nan, 900.0], "chance": 1.4})
    rows = [[1, 3, "numerical-rank-is-low", "says", "$x_1$", 2, "numerical_rank", 6.0, 0.1, "s"],
            [1, 1, "loss-explodes", "says", None, np.nan, "loss", 4.0, 3.0, "s"]]  # fmt: skip
    events = pd.DataFrame(rows[:n_events], columns=COLUMNS)
    return SimpleNamespace(layers=layers, kernels=kernels, steps=steps, table=lambda: events)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_map_shows_logarithms_by_depth_and_step_and_tells_infinity():
    subject = tables()
    ax = autopsy_map(subject.layers, measure="rms")
    values = ax.collections[0].get_array().reshape(3, 4)
    np.testing.assert_allclose(values, np.tile([0.0, 1, 2, 3], (3, 1)))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2", "3"]
    ax = autopsy_map(subject.kernels, measure="update_ratio")
    assert ax.get_legend().get_texts()[0].get_text() == "infinite"
    assert autopsy_map(subject.layers, measure="dead_share").texts[0].get_text() == "no dead share to show"


def test_limits_are_of_finite_values_and_a_decade_apart():
    assert value_limits([1.0, np.inf, np.nan, 0.0, 5.0], "rms") == (0.5, 5.0)
    assert value_limits([1e-20, 1.0], "rms") == (1e-12, 1.0)
    assert value_limits([0.0, 0.3], "dead_share") == (0.0, 1.0)
    assert value_limits([np.nan], "rms") == (0.1, 1.0)


def test_events_stand_on_the_loss_by_number_and_in_a_list():
    subject = tables()
    ax = loss_by_step(subject.steps, events=subject.table())
    assert ax.get_yscale() == "log"
    assert ax.texts[-1].get_text() == "1, 2"
    figure = autopsy_figure({"a": subject, "b": tables(n_events=0)})
    words = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "1  step 1: numerical rank is low, \\$x_1\\$, 6\n2  step 1: loss explodes, 4" in words
    assert "nothing failed" in words
    figure.canvas.draw()


def panels(figure, n_maps):
    """Axes of the maps, without their bars of colours, the loss on top."""
    return figure.axes[: n_maps + 1]


def test_steps_stand_below_each_other_in_all_panels():
    figure = autopsy_figure({"a": tables()})
    figure.canvas.draw()
    loss, *maps = panels(figure, 6)
    assert [ax.get_ylabel() for ax in maps] == ["depth"] * 6
    for ax in maps:
        middles = ax.transData.transform([(step + 0.5, 1.0) for step in range(4)])[:, 0]
        np.testing.assert_allclose(
            middles, loss.transData.transform([(step, 1.0) for step in range(4)])[:, 0], atol=0.5
        )
        assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2", "3"]
    assert np.ma.getmaskarray(maps[0].collections[0].get_array()).reshape(3, 4)[:, 0].all()  # no update before step 1


def test_every_event_of_a_layer_is_marked_on_a_map_where_it_was_seen():
    subject = tables()
    rows = [
        [1, 3, "weights-leave-their-scale", "says", "x", 1, "growth", 30.0, 10.0, "s"],
        [1, 3, "clipping-shrinks", "says", None, np.nan, "clip_factor", 1e-4, 0.01, "s"],
        [2, 3, "samples-indistinguishable", "says", "x", 3, "spread", 0.01, 0.05, "s"],
        [2, 3, "rank-collapse", "says", "x", 3, "effective_rank", 1.5, 2.0, "s"],
        [2, 3, "precision-horizon", "says", "x", 2, "precision", 0.5, 0.01, "s"],
    ]
    subject.table = lambda: pd.DataFrame(rows, columns=COLUMNS)
    maps = panels(autopsy_figure({"a": subject}), 6)[1:]
    marks = [[(text.get_text(), text.xy) for text in ax.texts] for ax in maps]
    assert marks == [
        [("2", (1.5, 0.5))], [], [("1", (1.5, 0.5))], [("5", (2.5, 1.5))], [("3, 4", (2.5, 2.5))], [],
    ]  # fmt: skip
    assert {MAPS[measure][0] for measure in SHOWN_ON.values()} == {"kernels", "layers"}


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ConfigError, match="at least one autopsy"):
        autopsy_figure({})
    with pytest.raises(ConfigError, match="measure='loss' is none of gradient_norm"):
        autopsy_map(tables().layers, measure="loss")
    with pytest.raises(ShapeError, match="lacks rms: give the tables of an autopsy"):
        autopsy_map(tables().kernels, measure="rms")
