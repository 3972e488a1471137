import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.reports import (
    condition_by_depth,
    condition_heatmap,
    rank_by_depth,
    spectra_by_depth,
    spectra_frame,
    training_curves,
    units_by_depth,
)
from deepprobe.reports.style import COLOURS, GREY


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def words(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def networks(make_table, **letters):
    return pd.concat([make_table(w).assign(network=name) for name, w in letters.items()])


@pytest.mark.parametrize("draw", [condition_by_depth, rank_by_depth, condition_heatmap, units_by_depth])
def test_axes_given_are_drawn_on_and_returned(draw, make_table):
    before = dict(mpl.rcParams)
    ax = plt.figure().add_subplot()
    assert draw(make_table("fcd"), ax) is ax
    assert draw(make_table("fcd"), ax=None) is not ax
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("draw", [condition_by_depth, rank_by_depth, condition_heatmap, units_by_depth])
def test_views_and_taps_are_never_mixed(draw, make_table):
    mixed = pd.concat([make_table("ff", view="samples"), make_table("ff", view="channels")])
    with pytest.raises(ConfigError) as caught:
        draw(mixed)
    assert str(caught.value) == (
        "a figure shows one tap and one view; this frame holds tap='block' with view='samples' and tap='block' with "
        "view='channels': pick one, for example frame[(frame.tap == 'block') & (frame.view == 'samples')]"
    )


@pytest.mark.parametrize(
    "draw", [condition_by_depth, rank_by_depth, condition_heatmap, units_by_depth, spectra_by_depth]
)
def test_nothing_to_show_is_said(draw, make_table):
    frame = spectra_frame({}) if draw is spectra_by_depth else make_table("f").head(0)
    ax = draw(frame)
    assert any(text.get_text().startswith(("no ", "No ")) for text in ax.texts)


def test_condition_line_has_the_finite_layers_and_the_rail_the_rest(make_table):
    ax = condition_by_depth(make_table("ffcdnu", kappa=40.0))
    line = ax.lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [1, 2])
    np.testing.assert_allclose(line.get_ydata(), [40.0, 40.0])
    rail = [a for a in ax.lines if a.get_transform() == ax.get_xaxis_transform()]
    assert sorted(x for a in rail for x in a.get_xdata()) == [3, 4, 5, 6]
    top = ax.transAxes.inverted().transform(ax.transData.transform((1, 40.0)))[1]
    assert all(0 < y < 1 for a in rail for y in a.get_ydata())
    assert min(y for a in rail for y in a.get_ydata()) > top
    assert words(ax) == [
        "condition number", "Gaussian, same shape", "singular at this precision", "certainly singular", "unresolved",
        "holds NaN or infinity",
    ]  # fmt: skip


def test_a_finite_layer_between_others_is_seen_and_no_line_bridges_the_gap(make_table):
    ax = condition_by_depth(make_table("cfcff"))
    alone, rest = (
        a for a in ax.lines if a.get_color() == COLOURS[0] and len(a.get_xdata()) and a.get_linestyle() != "None"
    )
    assert (list(alone.get_xdata()), list(rest.get_xdata())) == ([2], [4, 5])
    assert alone.get_marker() == "o"
    assert rest.get_marker() == "o"


def test_several_runs_are_thin_and_their_median_bold_where_most_are_finite(make_table):
    runs = [make_table(w, kappa=k).assign(run=str(k)) for w, k in (("fffc", 10.0), ("fffc", 30.0), ("fccf", 20.0))]
    ax = condition_by_depth(pd.concat(runs).assign(network="net"))
    bold = [a for a in ax.lines if a.get_linewidth() == 1.8]
    assert [list(a.get_xdata()) for a in bold] == [[1, 2, 3]]
    np.testing.assert_allclose(bold[0].get_ydata(), [20, 30, 30])  # a singular run counts as infinite
    thin = [a for a in ax.lines if a.get_linewidth() == 0.8 and a.get_color() == COLOURS[0]]
    assert sorted(list(a.get_xdata()) for a in thin) == [[1], [1, 2, 3], [1, 2, 3], [4]]
    assert words(ax)[:2] == ["net", "Gaussian, same shape"]


def test_every_network_stands_in_the_legend_whatever_its_name(make_table):
    frame = networks(make_table, **{"_hidden": "fc", "$\\frac{": "ff", "<b>": "fd"})
    ax = condition_by_depth(frame)
    assert words(ax)[:3] == ["_hidden", "\\$\\frac{", "<b>"]
    ax.figure.canvas.draw()


@pytest.mark.parametrize("length", [1, 12, 28])
@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_a_legend_leaves_the_axes_their_width(length, count, make_table):
    frame = networks(make_table, **{f"{i}".ljust(length, "n"): "fcd" for i in range(count)})
    ax = condition_by_depth(frame)
    ax.figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x1 <= ax.figure.bbox.x1
    assert ax.get_position().width > 0.8


def test_thirty_networks_look_different(make_table):
    frame = networks(make_table, **{f"n{i}": "ff" for i in range(30)})
    ax = condition_by_depth(frame)
    looks = {
        (line.get_color(), str(line._unscaled_dash_pattern), line.get_marker())
        for line in ax.lines
        if line.get_marker() not in {".", "None"}
    }
    assert len(looks) == 30


@pytest.mark.parametrize("measure", ["condition_number_live", "condition_number_rank", "condition_number_bound"])
def test_other_condition_numbers(measure, make_table):
    assert "κ" in condition_by_depth(make_table("fdb"), measure=measure).get_ylabel()


def test_measures_that_are_none_are_told(make_table):
    with pytest.raises(ConfigError, match="measure='kappa' is none of condition_number, "):
        condition_by_depth(make_table("f"), measure="kappa")
    with pytest.raises(ConfigError, match="measure='rank' is none of numerical_rank, "):
        rank_by_depth(make_table("f"), measure="rank")


def test_rank_line_and_its_bound(make_table):
    ax = rank_by_depth(make_table("fcn"), measure="numerical_rank")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [64, 5])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [64, 64, 64])


def test_a_layer_that_is_not_finite_has_the_bound_of_its_shape_not_nought(make_table):
    table = make_table("fnf")
    table.loc[1, "rank_bound"] = 0
    bound = next(line for line in rank_by_depth(table).lines if line.get_color() == GREY)
    np.testing.assert_array_equal(bound.get_ydata(), [64, 64, 64])


def test_units_are_shares_and_dead_ones_count_once(make_table):
    ax = units_by_depth(make_table("fd"))
    dead, constant, duplicate = (line.get_ydata() for line in ax.lines)
    np.testing.assert_allclose(dead, [0, 4 / 64])
    np.testing.assert_allclose(constant, [0, 0])
    np.testing.assert_allclose(duplicate, [0, 0])


def test_heat_map_has_colours_of_its_own_for_infinite_and_unknown(make_table):
    first, second = make_table("fff", kappa=10.0), make_table("fcu", kappa=1000.0)
    frame = pd.concat([first.assign(step=0), second.assign(step=10).iloc[:2], second.assign(step=20)])
    ax = condition_heatmap(frame)
    image = ax.collections[0]
    picture = image.to_rgba(image.get_array())[..., :3]
    assert picture.shape[:2] == (3, 3)
    assert ax.get_ylim() == (0, 3)  # training upward
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("depth", "step")
    colours = {tuple(np.round(c, 4)) for c in picture.reshape(-1, 3)}
    infinite, unknown = mpl.colors.to_rgb("#B80058"), mpl.colors.to_rgb("#8C8C8C")
    np.testing.assert_allclose(picture[1, 1], infinite)
    np.testing.assert_allclose(picture[2, 2], unknown)
    np.testing.assert_allclose(picture[1, 2], (1, 1, 1))  # not probed
    assert len(colours) == 5  # two finite ones
    assert words(ax) == ["infinite", "not known"]


@pytest.mark.parametrize("count", [1, 5, 9, 10, 13, 40])
def test_ticks_of_a_heat_map_are_evenly_spaced(count, make_table):
    frame = pd.concat([make_table("f").assign(step=10.0 * i) for i in range(count)])
    named = [float(text.get_text()) for text in condition_heatmap(frame).get_yticklabels()]
    assert named[0] == 0
    assert len(named) >= min(count, 5)
    assert len(named) <= 9
    assert len(set(np.diff(named))) <= 1


def test_heat_map_limits_are_shared_where_they_are_given(make_table):
    wide, own = (condition_heatmap(make_table("f"), limits=limits).collections[0] for limits in ((1.0, 1e6), None))
    np.testing.assert_allclose((wide.get_clim(), own.get_clim()), ((0, 6), (1, 2)))


def test_spectra_are_ordered_by_depth_and_relative_to_the_first(make_spectrum):
    frame = spectra_frame({str(d): make_spectrum("f", d, kappa=10.0**d) for d in (2, 1)})
    ax = spectra_by_depth(frame)
    picture = ax.collections[0].get_array()
    assert picture.shape == (64, 2)
    np.testing.assert_allclose(picture[0], [0, 0], atol=1e-12)
    np.testing.assert_allclose(picture[-1], [-1, -2], atol=1e-12)


def test_spectra_of_zeros_stand_at_the_lower_end(make_spectrum):
    ax = spectra_by_depth(spectra_frame({"a": make_spectrum("d", 1)}))
    assert ax.collections[0].get_array().min() == -16


def test_spectra_need_their_columns():
    with pytest.raises(ShapeError, match="frame of spectra lacks depth, share, value; deepprobe"):
        spectra_by_depth(pd.DataFrame({"a": [1]}))


def test_training_curves_have_a_line_a_split_and_mark_what_is_not_finite(make_run, make_table):
    metrics = make_run("a", {}, accuracy=0.9).metrics()
    ax = training_curves(metrics)
    assert words(ax) == ["a", "train", "test"]
    metrics.loc[metrics["measure"] == "loss", "value"] = [np.nan, np.inf, *([1e6] * 3), *([0.1] * 17)]
    ax = training_curves(metrics, measure="loss")
    assert ax.get_yscale() == "log"
    assert sum(len(a.get_xdata()) for a in ax.lines if a.get_transform() == ax.get_xaxis_transform()) == 2
    assert training_curves(metrics, measure="$x$").texts[0].get_text() == r"no \$x\$ was recorded"


def test_colours_are_those_of_seaborn_darkened():
    palette = np.array(sns.color_palette("colorblind"))
    for colour in np.array([mpl.colors.to_rgb(c) for c in COLOURS]):
        factors = np.clip(palette @ colour / (palette**2).sum(axis=1), 0, 1)
        assert np.abs(factors[:, None] * palette - colour).max(axis=1).min() < 0.005


def test_seaborn_is_loaded_by_the_first_figure_only():
    code = "import sys, deepprobe.reports; assert 'seaborn' not in sys.modules; import seaborn"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def luminance(colour):
    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("colour", [*COLOURS, GREY, "#404040", "#00558a", "#1a1a1a"])
def test_text_and_lines_have_a_contrast_of_at_least_four_and_a_half(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 4.5


def test_whole_epochs_are_counted_in_whole_numbers():
    rows = [{"measure": "accuracy", "split": "test", "run": "r", "epoch": float(e), "value": e / 4} for e in (1, 2, 3)]
    ax = training_curves(pd.DataFrame(rows))
    ax.figure.canvas.draw()
    assert all(tick == int(tick) for tick in ax.get_xticks())
    assert ax.get_xlabel() == "epoch"
