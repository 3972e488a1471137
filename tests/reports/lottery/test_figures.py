"""Figures of an experiment against numbers that are counted here, run by run."""

from __future__ import annotations

import lottery_experiment as lottery
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.reports import (
    barrier_by_density,
    condition_by_round,
    conditioning_by_density,
    density_by_layer,
    outcome_by_density,
    overlap_by_density,
)
from deepprobe.reports.lottery.frames import branches, conditioning, experiment_frame, over_seeds, overlaps
from deepprobe.reports.style import COLOURS

ROUNDS = 4


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def frames(read):
    """Table, layers of one view, densities and overlap of two seeds and the first rounds."""
    parts = {
        "table": read.table,
        "layers": read.layers[read.layers["view"] == "samples"],
        "densities": read.densities,
        "overlap": read.overlap[read.overlap["other_seed"] == 2],
    }
    return {
        name: part[(part["round"] <= ROUNDS) & part["seed"].isin((0, 2))].reset_index(drop=True)
        for name, part in parts.items()
    }


DRAWN = {
    outcome_by_density: "table", barrier_by_density: "table", conditioning_by_density: "layers",
    overlap_by_density: "overlap", density_by_layer: "densities", condition_by_round: "layers",
}  # fmt: skip


def line_of(ax, colour):
    """Points of the marked line of a colour."""
    (line,) = [x for x in ax.lines if x.get_color() == colour and x.get_marker() not in ("x", "None")]
    return list(zip(*line.get_data(), strict=True))


def words(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def density(round_):
    """Density of the tickets of a round, counted from their masks."""
    masks = lottery.masks_of("ticket", round_, 0)
    return sum(int(m.sum()) for m in masks.values()) / sum(m.size for m in masks.values())


@pytest.mark.parametrize("draw", DRAWN)
def test_axes_given_are_drawn_on_and_returned(draw, frames):
    before = dict(mpl.rcParams)
    ax = plt.figure().add_subplot()
    assert draw(frames[DRAWN[draw]], ax) is ax
    assert draw(frames[DRAWN[draw]], ax=None) is not ax
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("draw", DRAWN)
def test_nothing_to_show_is_said(draw, frames):
    ax = draw(frames[DRAWN[draw]].iloc[:0])
    assert len(ax.texts) == 1
    assert not ax.lines


@pytest.mark.parametrize("draw", DRAWN)
def test_frames_of_something_else_are_refused(draw, frames):
    with pytest.raises(ShapeError, match=r"frame lacks the columns? .*; an Experiment's table\(\)"):
        draw(frames[DRAWN[draw]].drop(columns=["round"]))


def test_accuracy_is_the_mean_over_seeds_at_each_density(frames):
    ax = outcome_by_density(frames["table"])
    for colour, branch, first in ((COLOURS[0], "ticket", 0), (COLOURS[1], "reinit", 1), (COLOURS[2], "random-mask", 1)):
        expected = [
            (density(r), np.mean([lottery.final_accuracy(branch, r, seed) for seed in (0, 2)]))
            for r in range(ROUNDS, first - 1, -1)
        ]
        assert line_of(ax, colour) == [pytest.approx(point, rel=1e-12) for point in expected]
    assert words(ax) == ["ticket", "random re-initialisation", "random mask", "dense (round 0)"]
    left, right = ax.get_xlim()
    assert left > 1 > right, "density falls to the right"
    assert ax.get_xscale() == "log"


def test_bars_go_from_the_lowest_seed_to_the_highest(frames):
    ax = outcome_by_density(frames["table"])
    (bars,) = [c for c in ax.collections if np.allclose(c.get_color()[0][:3], mpl.colors.to_rgb(COLOURS[0]))]
    ends = sorted((tuple(segment[:, 1]) for segment in bars.get_segments()), reverse=True)
    expected = [tuple(lottery.final_accuracy("ticket", r, seed) for seed in (0, 2)) for r in range(ROUNDS + 1)]
    assert ends == [pytest.approx(pair, rel=1e-12) for pair in expected]


def test_a_control_that_keeps_all_weights_stands_at_its_round(frames):
    table = frames["table"].copy()
    table.loc[table["branch"] == "reinit", ["branch", "density"]] = ["dense", 1.0]
    ax = outcome_by_density(table)
    assert [x for x, _ in line_of(ax, COLOURS[4])] == pytest.approx([density(r) for r in range(ROUNDS, 0, -1)])


def test_only_complete_runs_are_shown(frames):
    table = frames["table"].copy()
    table.loc[(table["seed"] == 2) & (table["round"] == ROUNDS), "status"] = "running"
    table.loc[table["branch"] == "random-mask", "status"] = "diverged"
    ax = outcome_by_density(table)
    assert line_of(ax, COLOURS[0])[0][1] == pytest.approx(lottery.final_accuracy("ticket", ROUNDS, 0))
    assert "random mask" not in words(ax)


def test_early_stopping_is_counted_from_zero(frames):
    ax = outcome_by_density(frames["table"], measure="early_stop_iteration")
    assert [y for _, y in line_of(ax, COLOURS[0])] == [
        lottery.stopping_step("ticket", r) for r in range(ROUNDS, -1, -1)
    ]
    assert ax.get_ylim()[0] == 0


def test_measures_that_no_figure_has_are_refused(frames):
    with pytest.raises(ConfigError, match="measure='loss' is none of test_accuracy"):
        outcome_by_density(frames["table"], measure="loss")
    with pytest.raises(ConfigError, match="measure='loss' is none of condition_number_live"):
        conditioning_by_density(frames["layers"], measure="loss")
    two = frames["layers"].assign(view=["samples", "channels"] * (len(frames["layers"]) // 2))
    with pytest.raises(ConfigError, match="shows one tap and one view"):
        conditioning_by_density(two)


def test_barriers_are_in_percentage_points_on_both_kinds_of_data(frames):
    ax = barrier_by_density(frames["table"])
    assert [y for _, y in line_of(ax, COLOURS[0])] == pytest.approx([2.0 * (6 - r) for r in range(ROUNDS, 0, -1)])
    assert [y for _, y in line_of(ax, COLOURS[1])] == pytest.approx([0.4 * (6 - r) for r in range(ROUNDS, 0, -1)])
    assert words(ax) == ["test data", "training data", "stable below 2 points"]


def test_conditioning_is_the_median_over_layers_without_the_data(frames):
    ax = conditioning_by_density(frames["layers"])
    expected = []
    for round_ in range(ROUNDS, -1, -1):
        each = [[10.0 * depth * 1.1**round_ * (1 + 0.05 * seed) for depth in (2, 3)] for seed in (0, 2)]
        expected.append(np.exp(np.mean([np.log(np.median(values)) for values in each])))
    assert [y for _, y in line_of(ax, COLOURS[0])] == pytest.approx(expected)
    assert ax.get_yscale() == "log"
    ranks = conditioning(frames["layers"], "effective_rank")
    assert len(ranks) == frames["layers"]["run"].nunique()


def test_infinite_condition_numbers_stand_at_the_upper_edge(frames):
    layers = frames["layers"].copy()
    layers.loc[(layers["round"] == 2) & (layers["branch"] == "ticket"), "condition_number_live"] = np.inf
    ax = conditioning_by_density(layers)
    (cross,) = [x for x in ax.lines if x.get_marker() == "x" and len(x.get_xdata())]
    assert cross.get_xdata() == pytest.approx([density(2)])
    assert np.isnan(dict(line_of(ax, COLOURS[0]))[density(2)])


def test_the_last_probe_of_each_run_counts(frames):
    layers = frames["layers"]
    early = layers.assign(step=0, condition_number_live=1e9)
    both = type(layers)(np.concatenate([early.to_numpy(), layers.to_numpy()]), columns=layers.columns)
    both["condition_number_live"] = both["condition_number_live"].astype("float64")
    assert conditioning(both, "condition_number_live")["condition_number_live"].max() < 1e9


def test_overlap_stands_beside_chance(frames):
    ax = overlap_by_density(frames["overlap"])
    assert words(ax) == ["ticket", "random mask", "chance"]
    one, other = (lottery.masks_of("ticket", ROUNDS, seed) for seed in (0, 2))
    shared = sum(int((one[k] & other[k]).sum()) for k in one) / sum(int((one[k] | other[k]).sum()) for k in one)
    assert line_of(ax, COLOURS[0])[0] == pytest.approx((density(ROUNDS), shared))


def test_overlap_stands_at_the_density_of_the_tickets_and_counts_every_pair(frames):
    tickets = frames["overlap"][frames["overlap"]["branch"] == "ticket"]
    dense = tickets.assign(branch="dense", density=1.0, overlap=1.0)
    apart = tickets.assign(seed=5, overlap=0.0)  # two seeds that share nothing
    pairs = overlaps(pd.concat([tickets, dense, apart], ignore_index=True))
    assert set(pairs["branch"]) == {"ticket"}
    assert dict(zip(pairs["round"], pairs["at"], strict=True)) == pytest.approx(
        {r: density(r) for r in range(ROUNDS + 1)}
    )
    ax = overlap_by_density(pd.concat([tickets, dense, apart], ignore_index=True))
    assert [y for _, y in line_of(ax, COLOURS[0])] == pytest.approx((tickets["overlap"] / 2).tolist()[::-1])


def test_densities_by_layer_are_colours_and_empty_layers_have_one_of_their_own(frames):
    ax = density_by_layer(frames["densities"])
    values = ax.collections[0].get_array().reshape(3, ROUNDS + 1)
    assert values[0, 3] == pytest.approx(lottery.masks_of("ticket", 3, 0)["fc1.weight"].mean())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["fc1", "fc2", "out"]
    assert ax.get_legend() is None
    empty = frames["densities"].copy()
    empty.loc[(empty["run"] == "seed2-round04-ticket") & (empty["layer"] == "fc2"), ["n_kept", "density"]] = 0
    assert words(density_by_layer(empty)) == ["keeps nothing in some seed"]


def test_condition_by_round_is_the_median_over_seeds(frames):
    ax = condition_by_round(frames["layers"], branch="reinit")
    values = ax.collections[0].get_array().reshape(ROUNDS, 3)
    assert values[1, 2] == pytest.approx(np.log10(30 * 1.5**2 * 1.05))
    assert ax.get_ylabel() == "round"


def test_branches_have_their_order_and_colours_whichever_are_there(frames):
    assert branches(["x", "sibling", "ticket", "x", "reinit"]) == ["ticket", "reinit", "sibling", "x"]
    table = frames["table"][frames["table"]["branch"] != "reinit"]
    assert line_of(outcome_by_density(table), COLOURS[2])
    odd = frames["table"].replace({"branch": {"reinit": "$\\frac{<b>"}})
    assert any(r"\$" in text for text in words(outcome_by_density(odd)))


def test_means_leave_out_what_is_not_known(frames):
    table = experiment_frame(frames["table"])
    table.loc[table["seed"] == 2, "test_accuracy"] = np.nan
    means = over_seeds(table, "test_accuracy")
    assert set(means["n"]) == {1}
    assert over_seeds(table, "train_loss").empty is False
    assert over_seeds(table.assign(nothing=np.nan), "nothing").empty
