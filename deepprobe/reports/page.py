"""What stands on the page of a report: its figures with captions and alt texts, its tables, its definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from deepprobe.reports import figures, kernels
from deepprobe.reports.facts import LEARNS_MARGIN
from deepprobe.reports.findings import brief
from deepprobe.reports.source import Network, facet, facets, last_step
from deepprobe.reports.svg import inline_svg
from deepprobe.reports.tables import Cell, Stage, stages, summary_of
from deepprobe.reports.words import VIEWS, clean, number, percent, place, plural

SMALL = (5.8, 3.2)
DARKEST = 1e-9
"""Darkest σᵢ / σ₁ of the common colours: two decades below what float32 can tell from zero."""


@dataclass(frozen=True)
class Panel:
    """One figure with its caption."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Section:
    """Figures that belong together; ``more`` is folded away under a line of its own."""

    slug: str
    title: str
    words: str
    panels: tuple[Panel, ...]
    more: tuple[Panel, ...] = ()
    more_title: str = "Other taps and views"


@dataclass(frozen=True)
class Part:
    """A foldable part of the page with rows or stages."""

    title: str
    rows: tuple[tuple[str, str], ...] = ()
    stages: tuple[Stage, ...] = ()


def sections(group: Sequence[Network]) -> tuple[Section, ...]:
    """All sections with figures, in the order of the page; one without a figure to show is left out.

    Args:
        group: Networks of the report.

    Returns:
        Sections on κ, rank, spectra, training of κ, kernels, accuracy and units.
    """
    parts = (
        _kappa(group), _ranks(group), _spectra(group), _heatmaps(group), _kernels(group), _training(group),
        _units(group),
    )  # fmt: skip
    return tuple(s for s in parts if s.panels)


def draw_panel(
    slug: str, draw: Callable[[Axes], object], *, caption: str, alt: str, size: tuple[float, float]
) -> Panel:
    """A figure as markup."""
    return Panel(Markup(inline_svg(draw, name=slug, alt=alt, size=size)), caption)


def _together(group: Sequence[Network]) -> pd.DataFrame:
    """Layers of all networks at their last step."""
    tables = [last_step(n.layers) for n in group if len(n.layers)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["tap", "view"])


def _each(group: Sequence[Network], tap: str, view: str) -> str:
    """Every network's state in words, for an alt text."""
    having = [n for n in group if (tap, view) in facets(n.layers)]
    return "; ".join(f"{n.name}: {brief(n, tap, view)}" for n in having) + " (over live units)."


def _kappa(group: Sequence[Network]) -> Section:
    """κ by depth, a panel a tap and view, all networks in it; over live units beside it."""
    table = _together(group)
    found = []
    for i, (tap, view) in enumerate(facets(table)):
        rows, where = facet(table, tap, view), place(tap, view)
        for measure, words in (("condition_number", ""), ("condition_number_live", " over live units")):
            if measure != "condition_number" and rows[measure].isna().all():
                continue
            found.append(
                draw_panel(
                    f"kappa{words.replace(' ', '-')}-{i}",
                    partial(figures.condition_by_depth, rows, measure=measure),
                    caption=f"Condition number{words} by depth: {where}.",
                    alt=f"Condition number{words} by depth, logarithmic, {where}. {_each(group, tap, view)}",
                    size=(5.8, 4.1),
                )
            )
    words = (
        "κ = σ₁ / σ_min of each layer's representation at the last step. The shaded band is what rounding to the "
        "activations' precision allows; the thin grey line is a random (Gaussian) matrix of the same shape. Layers "
        "without a finite value stand on the grey rail at the top, one row a network." + _several(group)
    )
    first = 2 if len(found) > 1 and "live" in found[1].caption else 1
    return Section("kappa", "Condition number by depth", words, tuple(found[:first]), tuple(found[first:]))


def _several(group: Sequence[Network]) -> str:
    """What the lines of several runs are, where there are several."""
    if all(len(n.runs) < 2 for n in group):
        return ""
    return " Thin lines are single runs, the bold one is their median; it ends where half or more are not finite."


def _ranks(group: Sequence[Network]) -> Section:
    """Effective and numerical rank by depth."""
    table = _together(group)
    found = []
    for i, (tap, view) in enumerate(facets(table)):
        rows, where = facet(table, tap, view), place(tap, view)
        for measure in ("effective_rank", "numerical_rank"):
            name = measure.replace("_", " ")
            medians = rows.groupby("network", sort=False)[measure].median()
            each = "; ".join(f"{network}: median {number(value)}" for network, value in medians.items())
            found.append(
                draw_panel(
                    f"{measure.replace('_', '-')}-{i}",
                    partial(figures.rank_by_depth, rows, measure=measure),
                    caption=f"{name.capitalize()} by depth: {where}.",
                    alt=f"{name.capitalize()} by depth, {where}. {each}.",
                    size=SMALL,
                )
            )
    words = (
        "How many directions a layer's representation has: numerical rank counts singular values that rounding cannot "
        "explain, effective rank (the exponential of the spectrum's entropy) weighs them by size." + _several(group)
    )
    return Section("rank", "Rank by depth", words, tuple(found[:2]), tuple(found[2:]))


def _spectra(group: Sequence[Network]) -> Section:
    """Singular spectra by depth, a panel a network, tap and view."""
    shown: dict[tuple[str, str], list[Panel]] = {}
    for i, network in enumerate(group):
        runs = network.spectra[network.spectra["run"] == network.shown.name]
        for j, (tap, view) in enumerate(facets(runs)):
            rows, where = facet(runs, tap, view), place(tap, view)
            ends = rows.loc[rows.groupby("depth")["share"].idxmax(), "value"]
            panel = draw_panel(
                f"spectra-{i}-{j}",
                partial(figures.spectra_by_depth, rows, lowest=_lowest(group, tap, view)),
                caption=f"{network.name}{_first_run(network)}: {where}.",
                alt=f"Singular values relative to the largest, by depth, of {network.name}, {where}: the smallest is "
                f"between {number(ends.min())} and {number(ends.max())} of the largest, depending on the layer.",
                size=SMALL,
            )
            shown.setdefault((tap, view), []).append(panel)
    return _first_and_rest(
        "spectra", "Singular spectra by depth", shown,
        "Every column is one layer at the last step, its singular values from the largest (top) to the smallest, as "
        "log₁₀ of their ratio to the largest. Light down to the bottom: all directions are alive.",
    )  # fmt: skip


def _first_and_rest(slug: str, title: str, shown: Mapping[Any, Sequence[Panel]], words: str) -> Section:
    """Section that shows the first tap and view and folds the others away."""
    groups = list(shown.values())
    rest = tuple(panel for part in groups[1:] for panel in part)
    return Section(slug, title, words, tuple(groups[0]) if groups else (), rest)


def _heatmaps(group: Sequence[Network]) -> Section:
    """κ over depth and training, of networks that were probed more than once."""
    shown: dict[tuple[str, str], list[Panel]] = {}
    for i, network in enumerate(group):
        table = network.layers[network.layers["run"] == network.shown.name]
        for j, (tap, view) in enumerate(facets(table)):
            rows, where = facet(table, tap, view), place(tap, view)
            steps = rows["step"].nunique()
            if steps < 2:
                continue
            panel = draw_panel(
                f"heatmap-{i}-{j}",
                partial(figures.condition_heatmap, rows, limits=_limits(group, tap, view)),
                caption=f"{network.name}{_first_run(network)}: {where}.",
                alt=f"Condition number of {network.name} over depth and {steps} probes during training, {where}. "
                f"At the last: {brief(network, tap, view)} (over live units).",
                size=SMALL,
            )
            shown.setdefault((tap, view), []).append(panel)
    return _first_and_rest(
        "heatmap", "Condition number over training", shown,
        "Depth across, training upward, colour is log₁₀ κ (as measured, dead units included).",
    )  # fmt: skip


def _limits(group: Sequence[Network], tap: str, view: str) -> tuple[float, float] | None:
    """Least and greatest finite κ of all networks in a tap and view."""
    values = pd.concat([facet(n.layers, tap, view)["condition_number"] for n in group])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else None


def _lowest(group: Sequence[Network], tap: str, view: str) -> float:
    """Smallest σᵢ / σ₁ of all networks in a tap and view."""
    least = min(facet(n.spectra, tap, view)["value"].min() for n in group if len(facet(n.spectra, tap, view)))
    return max(float(least), DARKEST)


def _kernels(group: Sequence[Network]) -> Section:
    """Gradients, updates and weights by depth over training, a panel a measure and network; axes are shared."""
    tables = {n.name: n.kernels[n.kernels["run"] == n.shown.name] for n in group if len(n.kernels)}
    found: dict[str, list[Panel]] = {}
    for measure in kernels.MEASURES if tables else ():
        limits = kernels.extremes(list(tables.values()), measure)
        for i, network in enumerate(n for n in group if n.name in tables):
            says = kernels.sentence(tables[network.name], measure)
            if not says:
                continue
            panel = draw_panel(
                f"{measure.replace('_', '-')}-by-depth-{i}",
                partial(kernels.kernels_by_depth, tables[network.name], measure=measure, limits=limits),
                caption=f"{network.name}{_first_run(network)}. {says}",
                alt=f"{kernels.MEASURES[measure][2].capitalize()} by depth of {network.name}, logarithmic. {says}",
                size=SMALL,
            )
            found.setdefault(measure, []).append(panel)
    shown = [panel for measure in ("gradient_norm", "update_ratio") for panel in found.pop(measure, ())]
    rest = [panel for panels in found.values() for panel in panels]
    words = (
        f"Every line is one step of training, the first dark, the last bright{_left_out(tables.values())}. "
        "Gradients are taken on samples of the probe set, their noise from one micro-batch to the next; updates "
        "are those that training made; weights are read as kernels, outputs × inputs and positions."
    )
    return Section(
        "kernels", "Gradients, weights, updates", words, tuple(shown or rest), tuple(rest if shown else ()),
        "Signal-to-noise ratio and weights",
    )  # fmt: skip


def _left_out(tables: Iterable[pd.DataFrame]) -> str:
    """How many of the steps have a line, where not all have one."""
    most = max((table.groupby("tap")["step"].nunique().max() for table in tables), default=0)
    return f"; of up to {most} steps measured {kernels.MOST_STEPS} are drawn" if most > kernels.MOST_STEPS else ""


def _training(group: Sequence[Network]) -> Section:
    """Accuracy and loss."""
    tables = [n.metrics for n in group if len(n.metrics)]
    if not tables:
        return Section("training", "Training", "", ())
    table = pd.concat(tables, ignore_index=True)
    found = []
    for measure in ("accuracy", "loss"):
        rows = table[table["measure"] == measure]
        if rows.empty:
            continue
        last = rows.sort_values("step").groupby(["network", "run", "split"], sort=False)["value"].last()
        text = percent if measure == "accuracy" else number
        mean = last.groupby(level=["network", "split"], sort=False).mean().reset_index()
        each = "; ".join(f"{r['network']}, {r['split']}: {text(r['value'])}" for r in mean.to_dict("records"))
        found.append(
            draw_panel(
                measure,
                partial(figures.training_curves, rows, measure=measure),
                caption=f"{measure.capitalize()} over training.",
                alt=f"{measure.capitalize()} over training. At the end, mean over runs: {each}.",
                size=SMALL,
            )
        )
    words = "Crosses at the upper edge stand for values that are not finite." + _several(group)
    return Section("training", "Training", words, tuple(found))


def _units(group: Sequence[Network]) -> Section:
    """Dead, constant and duplicate units by depth."""
    found = []
    for i, network in enumerate(group):
        table = last_step(network.layers[network.layers["run"] == network.shown.name])
        known = table[table[["n_dead", "n_constant", "n_duplicate"]].notna().any(axis=1)]
        if known.empty:
            continue
        tap, view = min(facets(known), key=lambda f: (f[1] != "channels", facets(known).index(f)))
        rows = facet(known, tap, view)
        counts = {w: int((rows[f"n_{w}"] > 0).sum()) for w in ("dead", "constant", "duplicate")}
        each = ", ".join(f"{word} units in {count}" for word, count in counts.items())
        found.append(
            draw_panel(
                f"units-{i}",
                partial(figures.units_by_depth, rows),
                caption=f"{network.name}{_first_run(network)}: {place(tap, view)}.",
                alt=f"Share of units by depth, {network.name}: of {plural(len(rows), 'layer')}, {each}.",
                size=(5.8, 2.9),
            )
        )
    words = "Units that are zero, or the same number, on every row, and units that equal an earlier one on every row."
    return Section("units", "Dead, constant and duplicate units", words, tuple(found))


def _first_run(network: Network) -> str:
    """Which run is shown, where there are several."""
    if len(network.runs) < 2:
        return ""
    seed = network.shown.seed
    return f" (one of {len(network.runs)} runs" + (f", seed {seed})" if seed is not None else ")")


def layer_parts(group: Sequence[Network]) -> tuple[Part, ...]:
    """Tables of layers, one a network, tap and view: its first run at the last step."""
    parts = []
    for network in group:
        table = last_step(network.layers[network.layers["run"] == network.shown.name])
        for tap, view in facets(table):
            rows = facet(table, tap, view)
            title = f"{network.name}{_first_run(network)} – {place(tap, view)} – {plural(len(rows), 'layer')}"
            parts.append(Part(title, stages=stages(rows)))
    return tuple(parts)


HEADINGS = {
    "network": "network", "tap": "tap", "view": "view", "n_runs": "runs", "accuracy": "accuracy",
    "chance": "chance", "n_layers": "layers", "finite": "finite", "structural": "structural",
    "collapsed": "collapsed", "unresolved": "unresolved", "nonfinite": "NaN or inf", "onset_live": "onset (live)",
    "horizon": "precision horizon", "kappa_median": "median κ", "live_median": "median κ (live)",
}  # fmt: skip
"""Columns of the summary on the page, with their headings: what a page 1280 pixels wide holds."""


def summary_table(group: Sequence[Network]) -> dict[str, Any]:
    """Headings and rows of cells of the summary; columns without any value are left out."""
    frame = summary_of(group)
    shown = [c for c in HEADINGS if len(frame) and frame[c].notna().any() and not (frame[c] == "").all()]
    rows = [tuple(_summary_cell(c, row[c]) for c in shown) for row in frame.to_dict("records")]
    return {"headings": [HEADINGS[c] for c in shown], "rows": rows}


def _summary_cell(column: str, value: Any) -> Cell:
    """One cell of the summary."""
    if isinstance(value, str):
        return Cell(value)
    share = column in {"accuracy", "chance"} and not pd.isna(value)
    return Cell(percent(value) if share else number(float(value)), repr(float(value)).replace("nan", "NaN"))


def definitions(group: Sequence[Network]) -> tuple[tuple[str, str], ...]:
    """Terms of the report with their meaning; of the views, those that occur."""
    views = {view for n in group for _, view in facets(n.layers)}
    return (
        ("κ", "Condition number: largest over smallest singular value of the n × d matrix of a layer's values."),
        ("depth", "Weighted layers on the main path up to here; layers on shortcuts are not counted."),
        ("tap", "Where it is read: block (a block's output, after the addition), output, or input of a layer."),
        *((f"view {clean(view)}", f"How a tensor becomes rows: {VIEWS[view]}.") for view in VIEWS if view in views),
        (
            "δ",
            "u · ‖H‖_F, with u the rounding unit of the activations' dtype: every singular value is known to within δ.",
        ),
        ("finite", "The smallest singular value is above δ, so κ is a number, known to within the band."),
        ("certainly singular", "Dead or duplicate units, fewer rows than units, or a proven deficiency of rank."),
        ("singular at this precision", "The smallest singular value is within δ: κ is at least the value given."),
        ("unresolved", "A float64 replay shows an arithmetic error above 1 % of σ₁: nothing can be said."),
        ("structural", "Singular only through dead or duplicate units, a bounded rank or n < d; the rest is finite."),
        ("collapsed", "Singular at this precision, or still singular once the structural causes are set aside."),
        ("over live units", "κ with dead and duplicate units taken out."),
        ("onset", "First depth whose layer is not finite and from which on at least 90 % of the layers are not."),
        ("onset (live)", "The same over live units; unresolved layers are left out, as nothing is known of them."),
        ("precision horizon", "First depth at which the measured arithmetic error exceeds 1 % of σ₁."),
        *(KERNEL_TERMS if any(len(n.kernels) for n in group) else ()),
        ("chance", "Share of the most frequent label where it was recorded, else one over the number of classes."),
        ("learns", f"Accuracy above chance by more than {percent(LEARNS_MARGIN)} of the samples."),
    )


KERNEL_TERMS = (
    ("gradient norm", "Norm of the gradient of the mean loss over all samples used, for one kernel."),
    (
        "signal-to-noise ratio",
        "Gradient norm over √(E ‖gᵢ − ḡ‖²), with gᵢ the gradient of one micro-batch; 1/√m of m micro-batches if all "
        "is noise.",
    ),
    ("update / weight", "‖W after − W before‖ / ‖W before‖ of one update of the optimizer."),
)
"""Terms of the section on kernels."""


def provenance(group: Sequence[Network]) -> tuple[Part, ...]:
    """Settings and provenance: what all runs share, then what is each run's own."""
    runs = [(run.name, flat({"config": run.config} | {"provenance": run.provenance})) for n in group for run in n.runs]
    runs = [(name, rows) for name, rows in runs if rows]
    if not runs:
        return ()
    if len(runs) == 1:
        return (Part(f"Run {runs[0][0]}", tuple(runs[0][1].items())),)
    shared = {k: v for k, v in runs[0][1].items() if all(rows.get(k) == v for _, rows in runs)}
    own = [Part(f"Run {name}", tuple((k, v) for k, v in rows.items() if k not in shared)) for name, rows in runs]
    return (Part(f"The same in all {len(runs)} runs", tuple(shared.items())), *own)


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys and printable values."""
    result: dict[str, str] = {}
    for key, inner in value.items():
        name = f"{prefix}.{clean(key)}" if prefix else clean(key)
        if isinstance(inner, Mapping):
            result |= flat(inner, name)
        else:
            result[name] = clean(inner, limit=2000)
    return result
