"""Gradients, weights and updates in figures, sentences and reports, of frames whose numbers are known."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import ConfigError
from deepprobe.reports import kernels_by_depth, write_tables
from deepprobe.reports.findings import findings
from deepprobe.reports.html import render
from deepprobe.reports.kernels import MEASURES, sentence
from deepprobe.reports.source import last_step, networks


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def kernels(tap, step, *, layer="conv", **measures):
    """Rows of kernels at depths 1, 2, …, as ``Run.layers`` gives them."""
    count = len(next(iter(measures.values())))
    columns = {"layer": [f"{layer}{i}" for i in range(1, count + 1)], "depth": range(1, count + 1), "tap": tap}
    columns |= {"view": "kernel", "call": 1, "type": "Conv2d", "dtype": "float32", "n_rows": 9, "n_features": 3}
    split = "train" if tap == "update" else "probe"
    return pd.DataFrame(
        {**columns, "run": "a", "seed": 0, "step": step, "epoch": step / 10, "split": split, **measures}
    )


def exploding(step=0):
    return kernels("gradient", step, gradient_norm=[1e9, 3e4, 0.3], gradient_snr=[0.5] * 3, n_micro_batches=[16] * 3)


def lines(ax):
    """(depths, values) of the lines with several points."""
    return [line.get_xydata().T for line in ax.get_lines() if len(line.get_xdata()) == 3]


def test_a_line_a_step_shows_the_numbers_of_its_own_tap():
    frame = pd.concat([exploding(0), exploding(5), kernels("update", 5, gradient_norm=[1.0] * 3)])
    ax = kernels_by_depth(frame)
    drawn = lines(ax)
    assert len(drawn) == 2
    for depths, values in drawn:
        assert depths.tolist() == [1, 2, 3]
        np.testing.assert_array_equal(values, [1e9, 3e4, 0.3])
    assert ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["step 0", "step 5"]
    assert "gradient norm" in ax.get_ylabel()


def test_of_many_steps_six_are_drawn_the_first_and_the_last_among_them():
    ax = kernels_by_depth(pd.concat([exploding(step) for step in range(0, 110, 10)]))
    shown = [t.get_text() for t in ax.get_legend().get_texts()]
    assert shown == ["step 0", "step 20", "step 40", "step 60", "step 80", "step 100"]


def test_zero_and_nothing_leave_a_gap_and_infinity_a_cross():
    ax = kernels_by_depth(kernels("update", 1, update_ratio=[np.inf, 0.0, np.nan, 1e-3]), measure="update_ratio")
    line, crosses = ax.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, np.nan, np.nan, 1e-3])
    assert crosses.get_xdata().tolist() == [1]
    assert crosses.get_marker() == "x"


def test_the_noise_that_alone_would_be_seen_is_drawn():
    ax = kernels_by_depth(exploding(), measure="gradient_snr")
    assert 0.25 in [line.get_ydata()[0] for line in ax.get_lines() if len(set(line.get_ydata())) == 1]
    assert "noise alone" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_axes_hold_the_limits_that_are_shared():
    low, high = kernels_by_depth(exploding(), limits=(1e-6, 1e12)).get_ylim()
    assert low < 1e-6
    assert high > 1e12
    assert kernels_by_depth(exploding()).get_ylim()[0] > 0.1


@pytest.mark.parametrize("measure", MEASURES)
def test_nothing_measured_is_said(measure, make_table):
    for frame in (make_table("fc"), pd.DataFrame(columns=["layer"]), kernels("weight", 0, update_ratio=[np.nan] * 2)):
        ax = kernels_by_depth(frame, measure=measure)
        assert ax.texts[0].get_text() == f"no {measure.replace('_', ' ')} was measured"
        assert sentence(frame, measure) == ""


def test_what_no_figure_shows_is_refused():
    with pytest.raises(ConfigError) as error:
        kernels_by_depth(exploding(), measure="accuracy")
    assert str(error.value) == (
        "measure='accuracy' is none of gradient_norm, gradient_snr, update_ratio, weight_norm, condition_number"
    )
    with pytest.raises(ConfigError, match=r"^kernels_by_depth shows one run; this frame holds a, b$"):
        kernels_by_depth(pd.concat([exploding(), exploding().assign(run="b")]))


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (
            exploding(1),
            "At step 1 the gradient norm falls from 1.00e9 at depth 1 to 0.300 at depth 3, median 30000.",
        ),
        (
            pd.concat(
                [kernels("gradient", 0, gradient_norm=[1.0, 2, 4]), kernels("gradient", 9, gradient_norm=[0.1, 9, 9])]
            ),
            "At step 0 the gradient norm is between 1 (depth 1) and 4 (depth 3), median 2; at step 9 it rises from "
            "0.100 at depth 1 to 9 at depth 3, median 9.",
        ),
        (kernels("gradient", 0, gradient_norm=[2.0]), "At step 0 the gradient norm is 2."),
        (
            kernels("gradient", 0, gradient_norm=[np.nan, 2.0, 0.0, 3.0]),
            "At step 0 the gradient norm is between 2 (depth 2) and 3 (depth 4), median 2.50.",
        ),
    ],
)  # fmt: skip
def test_a_sentence_says_how_it_goes_over_depth(frame, says):
    assert sentence(frame, "gradient_norm") == says


def mixed(make_table):
    """All that callbacks record at two steps, as one wide table."""
    probed = make_table("ff", tap="input").assign(split="probe")
    seen = make_table("cc", tap="input").assign(split="train")
    parts = [t.assign(step=s, run="a", seed=0, epoch=s / 10) for t in (probed, seen) for s in (0, 10)]
    weights = make_table("ff", tap="weight", view="kernel").assign(weight_norm=[2.0, 3.0], split="probe")
    parts += [exploding(0), exploding(10), kernels("update", 10, update_ratio=[1e-3] * 3)]
    return pd.concat([*parts, weights.assign(step=20, run="a", seed=0, epoch=2.0)], ignore_index=True)


def test_kernels_and_what_was_seen_in_flight_do_not_mix_with_probes(make_table):
    (network,) = networks(mixed(make_table))
    assert network.layers["status"].tolist() == ["finite"] * 4
    assert sorted(network.kernels["tap"].unique()) == ["gradient", "update", "weight"]
    assert network.kernels.loc[network.kernels["tap"] == "weight", "weight_norm"].tolist() == [2.0, 3.0]
    assert len(network.runs) == 1
    only_seen = mixed(make_table).query("split == 'train' and tap == 'input'")
    assert len(networks(only_seen)[0].layers) == 4


def test_the_last_step_is_that_of_each_tap_and_view(make_table):
    early = make_table("ff", tap="block").assign(run="a", step=5)
    late = make_table("ff", tap="input").assign(run="a", step=9)
    assert last_step(pd.concat([early, late]))["step"].tolist() == [5, 5, 9, 9]


def test_the_report_has_a_section_on_them(make_run, make_table):
    run = make_run("net", {})
    run.layers = lambda: mixed(make_table)
    text = render(run)
    assert "<h2>Gradients, weights, updates</h2>" in text
    section = text[text.index('<section id="kernels">') :].partition("</section>")[0]
    assert section.count("<figure>") == 5
    assert "<summary>Signal-to-noise ratio and weights (3 figures)</summary>" in section
    assert "At step 0 the gradient norm falls from 1.00e9 at depth 1 to 0.300 at depth 3" in section
    assert "update / weight" in text[text.index("Definitions") :]
    assert "Gradients, weights, updates" not in render(make_run("net", {0: make_table("ff")}))


def test_the_section_says_how_many_steps_are_drawn(make_run):
    def lines(count):
        run = make_run("net", {})
        run.layers = lambda: pd.concat([exploding(step) for step in range(count)], ignore_index=True)
        return re.search(r"Every line is one step of training, .*?\.", render(run))[0]

    assert lines(13).endswith("the last bright; of up to 13 steps measured 6 are drawn.")
    assert lines(6).endswith("the first dark, the last bright.")


def test_the_finding_names_the_gradient(make_table):
    (found,) = findings(networks(mixed(make_table)))
    assert any(s.startswith("At step 0 the gradient norm falls from 1.00e9") for s in found.sentences)
    assert any(s.startswith("At step 10 the ratio of update to weight is between") for s in found.sentences)


def test_a_report_of_gradients_alone():
    for frame in (exploding(), exploding().drop(columns=["run", "step", "seed", "epoch", "split"])):
        assert "the gradient norm falls from 1.00e9 at depth 1" in render(frame)


def test_singular_values_are_those_of_the_last_step_with_representations(make_run, make_table):
    stored = {
        10: {"input/channels/features.stage1.block1": np.array([2.0, 1.0]), "train/input/channels/x": np.ones(2)},
        20: {"weight/kernel/features.stage1.block1": np.array([9.0, 1.0])},
    }
    run = make_run("net", {}, stored=stored)
    run.layers = lambda: mixed(make_table)
    (network,) = networks(run)
    assert network.spectra[["tap", "share", "value"]].values.tolist() == [["input", 0.5, 1.0], ["input", 1.0, 0.5]]


def test_tables_have_kernels_of_their_own(make_table, tmp_path):
    paths = write_tables(mixed(make_table), tmp_path)
    assert [p.name for p in paths] == ["layers.csv", "metrics.csv", "summary.csv", "kernels.csv"]
    found = pd.read_csv(tmp_path / "kernels.csv")
    assert found.loc[found["tap"] == "gradient", "gradient_norm"].tolist() == [1e9, 3e4, 0.3] * 2
    assert "gradient_norm" not in pd.read_csv(tmp_path / "layers.csv")
    assert len(write_tables(make_table("ff"), tmp_path / "plain")) == 3
