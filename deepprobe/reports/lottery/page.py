"""What stands on the page of a lottery-ticket experiment: its figures, its tables, its definitions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepprobe.reports.lottery import figures
from deepprobe.reports.lottery.findings import CONTROLS, accuracy_of, accuracy_words, kappa_of, left
from deepprobe.reports.lottery.frames import BRANCHES, branches, conditioning, experiment_frame, over_seeds, overlaps
from deepprobe.reports.lottery.maps import condition_by_round, density_by_layer
from deepprobe.reports.page import SMALL, Panel, Part, Section, draw_panel, flat
from deepprobe.reports.source import facet, facets
from deepprobe.reports.tables import Cell
from deepprobe.reports.words import number, place, plural

if TYPE_CHECKING:
    from deepprobe.reports.lottery.source import Lottery

SIZE = (5.8, 4.1)
CLOSE = 0.05
"""How far below the dense network an accuracy lies before a figure close up is drawn as well."""

RUN_COLUMNS = {
    "branch": "branch", "round": "round", "density": "weights left", "n_kept": "kept", "n_empty_layers": "empty layers",
    "status": "status", "epochs": "epochs", "seconds": "seconds", "validation_accuracy": "validation accuracy",
    "test_accuracy": "test accuracy", "early_stop_iteration": "early stop",
    "early_stop_test_accuracy": "test accuracy there", "barrier": "barrier",
}  # fmt: skip
"""Columns of the table of trainings, with their headings."""


def sections(lottery: Lottery) -> tuple[Section, ...]:
    """All sections with figures, in the order of the page; one without a figure to show is left out."""
    parts = (
        _accuracy(lottery), _early_stopping(lottery), _barriers(lottery), _conditioning(lottery), _densities(lottery),
        _overlap(lottery),
    )  # fmt: skip
    return tuple(s for s in parts if s.panels)


def summary_table(lottery: Lottery) -> dict[str, Any]:
    """One row a round: density, seeds, accuracy and early stopping of every branch; means over seeds."""
    table, accuracy = lottery.complete, accuracy_of(lottery.complete)
    shown = [b for b in branches(table["branch"]) if b == "ticket" or b in CONTROLS or b not in BRANCHES]
    measures = [(accuracy, branch, BRANCHES.get(branch, branch)) for branch in shown]
    measures += [
        ("early_stop_iteration", b, f"early stop, {BRANCHES.get(b, b)}") for b in shown if b in {"ticket", "reinit"}
    ]
    measures += [("barrier", "sibling", "barrier")]
    means = {m: over_seeds(experiment_frame(table, m), m) for m, _, _ in measures}
    measures = [(m, b, words) for m, b, words in measures if (means[m]["branch"] == b).any()]
    tickets = experiment_frame(table)
    tickets = tickets[tickets["branch"] == "ticket"]
    rows = []
    for number_ in sorted(set(tickets["round"])):
        part = tickets[tickets["round"] == number_]
        cells = [_cell(float(number_)), _cell(float(part["at"].iloc[0]), left), _cell(float(len(part)))]
        rows.append((*cells, *(_mean_cell(means[m], b, int(number_), m) for m, b, _ in measures)))
    return {"headings": ["round", "weights left", "seeds", *(words for _, _, words in measures)], "rows": rows}


def trainings(lottery: Lottery) -> tuple[dict[str, Any], ...]:
    """The one table of the experiment, a part a seed."""
    columns = [c for c in RUN_COLUMNS if c in {"branch", "status"} or lottery.table[c].notna().any()]
    parts = []
    for seed, rows in lottery.table.groupby("seed"):
        cells = [tuple(_run_cell(c, row[c]) for c in columns) for row in rows.to_dict("records")]
        parts.append({"title": f"Seed {seed}, {plural(len(rows), 'training')}", "rows": cells})
    return tuple({**part, "headings": [RUN_COLUMNS[c] for c in columns]} for part in parts)


def provenance(lottery: Lottery) -> tuple[Part, ...]:
    """Settings of the experiment, and on what its first run was made."""
    parts = (
        Part("Settings of the experiment", tuple(flat(lottery.config).items())),
        Part("Where its first training was made", tuple(flat(lottery.provenance).items())),
    )
    return tuple(part for part in parts if part.rows)


def definitions(lottery: Lottery) -> tuple[tuple[str, str], ...]:
    """Terms of the page with their meaning; of the branches, those that occur."""
    found = set(lottery.table["branch"])
    return (
        (
            "weights left",
            "Density: share of the prunable weights that is kept. Biases and normalisation are not counted.",
        ),
        ("round", "Train, prune, rewind once. Round 0 is the dense network."),
        *((BRANCHES[b], BRANCH_TERMS[b]) for b in BRANCHES if b in found),
        ("early stop", "The iteration of the lowest validation loss among the recorded ones, the first of equal ones."),
        ("barrier", "Highest error on the straight line between two networks, less the mean of their two errors."),
        ("κ", "Condition number: largest over smallest singular value of the n × d matrix of a layer's values."),
        ("over live units", "κ with dead and duplicate units taken out."),
        ("effective rank", "Exponential of the entropy of the normalised singular values."),
        ("overlap", "Weights that both masks keep, over weights that either keeps."),
        ("chance", "The overlap of random masks that keep as many weights in each layer."),
    )


BRANCH_TERMS = {
    "ticket": "The pruned network, its weights rewound, trained again; the next round prunes what comes of it.",
    "reinit": "The ticket's mask with new random initial weights.",
    "random-mask": "The ticket's initial weights, as many kept in each layer as in the ticket, at random places.",
    "shuffled-mask": "The ticket's mask, each output unit's connections shuffled; every unit keeps its number of them.",
    "dense": "No weight removed, trained as long as all rounds up to there together.",
    "sibling": "The ticket trained again with the data in another order.",
}


def _accuracy(lottery: Lottery) -> Section:
    """Accuracy at the end of training."""
    words = (
        "Each point is the mean over seeds, its bar goes from the lowest seed to the highest. The grey line and band "
        "are the dense networks of round 0, mean and spread. Controls stand at the density of their round's tickets."
    )
    panels = _accuracies(lottery, accuracy_of(lottery.complete))
    return Section("accuracy", "Accuracy against density", words, tuple(panels))


def _accuracies(lottery: Lottery, measure: str) -> list[Panel]:
    """An accuracy against density, and close up where controls fall far below."""
    means, what = _means(lottery, measure), figures.OUTCOMES[measure]
    if means.empty:
        return []
    alt = f"{what.capitalize()} against the share of weights left. {_course(means, accuracy_words)}"
    slug, draw = measure.replace("_", "-"), partial(figures.outcome_by_density, lottery.complete, measure=measure)
    panels = [draw_panel(slug, draw, caption=f"{what.capitalize()}.", alt=alt, size=SIZE)]
    limits = _close_up(means)
    if limits is not None:
        caption = f"{what.capitalize()}, close up; what lies lower is cut off."
        panels.append(draw_panel(f"{slug}-close", partial(draw, limits=limits), caption=caption, alt=alt, size=SIZE))
    return panels


def _close_up(means: pd.DataFrame) -> tuple[float, float] | None:
    """Ends of an axis around the dense networks and what comes near them, where something lies far below."""
    dense = means[(means["branch"] == "ticket") & (means["round"] == 0)]
    if dense.empty:
        return None
    least = float(dense["mean"].iloc[0]) - CLOSE
    if means["low"].min() >= least:
        return None
    near = means[means["low"] >= least]
    room = max(0.1 * (float(near["high"].max()) - float(near["low"].min())), 1e-3)
    return float(near["low"].min()) - room, float(near["high"].max()) + room


def _early_stopping(lottery: Lottery) -> Section:
    """Early-stop iteration against density, and accuracy there."""
    measure = "early_stop_iteration"
    means = _means(lottery, measure)
    words = (
        "The iteration of the lowest validation loss, among those at which it was recorded: how fast a network learns, "
        "as in Frankle & Carbin (2019)."
    )
    if means.empty:
        return Section("early-stop", "Early stopping", words, ())
    panel = draw_panel(
        "early-stop-iteration",
        partial(figures.outcome_by_density, lottery.complete, measure=measure),
        caption="Early-stop iteration.",
        alt=f"Early-stop iteration against the share of weights left. {_course(means, lambda v: f'{v:,.0f}')}",
        size=SIZE,
    )
    there = _accuracies(lottery, f"early_stop_{accuracy_of(lottery.complete)}")
    shown, more = (panel, *there[:1]), tuple(there[1:])
    return Section("early-stop", "Early stopping", words, shown, more, "Close up")


def _barriers(lottery: Lottery) -> Section:
    """Error barriers between tickets and their siblings."""
    words = (
        "Each ticket is trained twice from the same start, with the data in another order. A barrier near zero means "
        "that both end in one basin: the ticket is stable to the noise of training (Frankle et al. 2020)."
    )
    means = _means(lottery, "barrier")
    means = means if len(means) else _means(lottery, "train_barrier")
    if means.empty:
        return Section("barriers", "Order of the data", words, ())
    panel = draw_panel(
        "barriers",
        partial(figures.barrier_by_density, lottery.complete),
        caption="Error barrier between two trainings of one ticket.",
        alt="Error barrier against the share of weights left. " + _course(means, lambda v: f"{100 * v:.2f} points"),
        size=SIZE,
    )
    return Section("barriers", "Order of the data", words, (panel,))


def _conditioning(lottery: Lottery) -> Section:
    """κ and effective rank against density, and κ by depth and round; the first tap and view, then the others."""
    groups: list[list[Panel]] = []
    for i, (tap, view) in enumerate(facets(lottery.layers) if len(lottery.layers) else []):
        rows, where = facet(lottery.layers, tap, view), place(tap, view)
        groups.append([*_against_density(rows, where, i), *_by_depth(rows, where, i)])
    groups = [group for group in groups if group]
    words = (
        "Does pruning to a winning ticket improve or ruin conditioning? Each run's last probe: the median over its "
        "layers, then the mean over seeds (geometric for κ), bars from lowest to highest. Crosses at the upper edge "
        "are infinite. The maps show the median over seeds at each depth, grey where nothing is known, as of fewer "
        "samples than units."
    )
    rest = tuple(panel for group in groups[1:] for panel in group)
    return Section("conditioning", "Conditioning", words, tuple(groups[0]) if groups else (), rest)


def _against_density(rows: pd.DataFrame, where: str, index: int) -> list[Panel]:
    """κ and effective rank against density."""
    panels = []
    for measure in (kappa_of(rows), "effective_rank"):
        runs = conditioning(rows, measure) if measure in rows else pd.DataFrame()
        means = over_seeds(runs, measure, geometric=measure != "effective_rank") if len(runs) else runs
        if means.empty:
            continue
        what = figures.CONDITIONING[measure]
        panels.append(
            draw_panel(
                f"{measure.replace('_', '-')}-density-{index}",
                partial(figures.conditioning_by_density, rows, measure=measure),
                caption=f"{_first_up(what)}: {where}.",
                alt=f"{_first_up(what)} of {where} against the share of weights left. {_course(means, number)}",
                size=SIZE,
            )
        )
    return panels


def _by_depth(rows: pd.DataFrame, where: str, index: int) -> list[Panel]:
    """κ over depth and rounds, a map a branch, in common colours."""
    measure = kappa_of(rows)
    values = rows[measure].to_numpy(dtype="float64")
    values = values[np.isfinite(values) & (values > 0)]
    limits = (float(values.min()), float(values.max())) if len(values) else None
    panels = []
    for branch in [b for b in branches(rows["branch"]) if b in {"ticket", "reinit"}]:
        if rows.loc[rows["branch"] == branch, "round"].nunique() < 2:
            continue
        name = BRANCHES[branch]
        panels.append(
            draw_panel(
                f"kappa-rounds-{branch}-{index}",
                partial(condition_by_round, rows, branch=branch, measure=measure, limits=limits),
                caption=f"κ by depth and round, {name}: {where}.",
                alt=f"Map of the condition number over depth and rounds, {name}, {where}.",
                size=SMALL,
            )
        )
    return panels


def _densities(lottery: Lottery) -> Section:
    """Densities of layers over rounds, of tickets and of controls with masks of their own."""
    words = "What share of its weights each layer of a ticket keeps, mean over seeds, the first layer on top."
    rows = lottery.densities[(lottery.densities["branch"] == "ticket")]
    if rows["round"].nunique() < 2:
        return Section("densities", "Density by layer", words, ())
    last = rows[rows["round"] == rows["round"].max()].groupby("layer", sort=False)["density"].mean()
    n = len(last)
    panel = draw_panel(
        "densities",
        partial(density_by_layer, lottery.densities),
        caption="Weights left by layer and round.",
        alt=f"Map of the share of weights left in {plural(n, 'layer')} over rounds. At the last round it lies between "
        f"{left(last.min())} and {left(last.max())}.",
        size=(5.8, float(np.clip(1.2 + 0.28 * n, 2.6, 6.0))),
    )
    return Section("densities", "Density by layer", words, (panel,))


def _overlap(lottery: Lottery) -> Section:
    """Overlap of masks between seeds."""
    words = (
        "Weights that the tickets of two seeds both keep, over those that either keeps. Chance is what random masks "
        "with as many weights in each layer would have in common."
    )
    if lottery.overlap["overlap"].isna().all() or (lottery.overlap["round"] == 0).all():
        return Section("overlap", "Masks of different seeds", words, ())
    means = over_seeds(overlaps(lottery.overlap), "overlap")
    panel = draw_panel(
        "overlap",
        partial(figures.overlap_by_density, lottery.overlap),
        caption="Overlap of masks between seeds, mean over pairs.",
        alt=f"Overlap of masks against the share of weights left. {_course(means, left)}",
        size=SIZE,
    )
    return Section("overlap", "Masks of different seeds", words, (panel,))


def _means(lottery: Lottery, measure: str) -> pd.DataFrame:
    """Mean over seeds of a measure of the table."""
    return over_seeds(experiment_frame(lottery.complete, measure), measure)


def _course(means: pd.DataFrame, text: Any) -> str:
    """How every branch goes from its densest to its sparsest round, for an alt text."""
    parts = []
    for branch in branches(means["branch"]):
        rows = means[means["branch"] == branch].sort_values("round")
        ends = [f"{text(row['mean'])} at {left(row['at'])}" for row in (rows.iloc[0], rows.iloc[-1])]
        parts.append(f"{BRANCHES.get(branch, branch)}: {' to '.join(dict.fromkeys(ends))}")
    return "; ".join(parts) + "."


def _cell(value: float, text: Any = number) -> Cell:
    """Cell of a number that sorts by it."""
    return Cell(text(value) if np.isfinite(value) else number(value), repr(value).replace("nan", "NaN"))


def _mean_cell(means: pd.DataFrame, branch: str, number_: int, measure: str) -> Cell:
    """Cell of a branch at a round: mean, lowest and highest."""
    rows = means[(means["branch"] == branch) & (means["round"] == number_)]
    if rows.empty:
        return Cell("–", "NaN")
    row, text = rows.iloc[0], _text_of(measure)
    mean, low, high = (text(float(row[c])) for c in ("mean", "low", "high"))
    return Cell(mean if low == high else f"{mean} ({low}–{high})", repr(float(row["mean"])))


def _text_of(measure: str) -> Any:
    """How numbers of a measure are written in tables: shares in percent without the sign."""
    if measure.endswith(("accuracy", "barrier")):
        return lambda share: f"{100 * share:.2f}"
    return lambda value: f"{value:,.0f}"


def _run_cell(column: str, value: Any) -> Cell:
    """One cell of the table of trainings."""
    if isinstance(value, str):
        return Cell(BRANCHES.get(value, value) if column == "branch" else value)
    value = float(value)
    if column == "density":
        return _cell(value, left)
    if column.endswith(("accuracy", "barrier")):
        return _cell(value, _text_of(column))
    return _cell(value, (lambda v: f"{v:,.0f}") if column in {"n_kept", "early_stop_iteration"} else number)


def _first_up(text: str) -> str:
    """A caption's beginning."""
    return text[:1].upper() + text[1:]
