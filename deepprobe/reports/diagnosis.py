"""A diagnosis as one page: what was found, ranked, beside the evidence by depth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from matplotlib import ticker

from deepprobe.errors import ConfigError
from deepprobe.reports.html import fill
from deepprobe.reports.page import Panel, draw_panel
from deepprobe.reports.style import GREY, axes, colour, decades, finish, note
from deepprobe.reports.words import clean, number, plural
from deepprobe.runs.atomic import make_folder, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {
    "rms": ("rms of activations", True, "How large activations are, as the network trains."),
    "gradient_norm": ("gradient norm ‖∂L/∂h‖", True, "How large the loss's gradient is at each depth."),
    "spread": ("spread between samples", False, "Share of the activations' norm that differs between samples."),
    "effective_rank": ("effective rank", False, "Directions that the samples of a batch are spread over."),
    "precision": ("‖H₃₂ − H₆₄‖ / ‖H‖", True, "What float32 gets wrong against float64; 1 % is the horizon."),
    "share_dead": ("share of dead units", False, "Units that are zero on every sample of the batch."),
    "share_saturated": ("saturated values", False, "Share of values in the flat part of a bounded non-linearity."),
    "update_ratio": ("first update ‖ΔW‖ / ‖W‖", True, "First step of plain SGD at the learning rate given."),
}
"""What is drawn by depth: name of the axis, whether it is logarithmic, caption."""

LINES = {"precision": 0.01, "update_ratio": 1.0, "spread": 0.05, "effective_rank": 2.0}
"""Thresholds of rules, drawn into the figures."""

SERIOUS, NOTABLE = 0.7, 0.4


class DiagnosisLike(Protocol):
    """What ``deepprobe.diagnose`` gives."""

    @property
    def evidence(self) -> Any:
        """With the tables ``path``, ``layers`` and ``kernels``."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not looked at."""

    def table(self) -> pd.DataFrame:
        """Findings as rows."""


@dataclass(frozen=True)
class Item:
    """A finding as it stands on the page."""

    heading: str
    grade: str
    says: str
    evidence: str
    advice: str


def write_diagnosis(diagnosis: DiagnosisLike, path: str | Path, *, title: str = "Diagnosis") -> Path:
    """Write a diagnosis as one HTML file that needs nothing else.

    Args:
        diagnosis: What ``deepprobe.diagnose`` returned.
        path: The file to write; replaced in one step.
        title: Heading.

    Returns:
        The path written to.

    Raises:
        RunError: If the file cannot be written.
    """
    target = Path(path)
    text = render_diagnosis(diagnosis, title=title)
    make_folder(target.parent)
    write_bytes(target, text.encode())
    return target


def render_diagnosis(diagnosis: DiagnosisLike, *, title: str = "Diagnosis") -> str:
    """The page as text; arguments as ``write_diagnosis``."""
    table = diagnosis.table()
    serious = int((table["severity"] >= SERIOUS).sum())
    lead = f"{plural(len(table), 'finding')}, {serious} serious." if len(table) else "No rule found anything."
    return fill(
        "diagnosis.html",
        title=clean(title),
        lead=lead,
        items=[_item(row) for _, row in table.iterrows()],
        notes=[clean(note) for note in diagnosis.notes],
        setting=_setting(diagnosis.evidence),
        panels=panels(diagnosis),
    )


def _item(row: pd.Series[Any]) -> Item:
    """A row of the table of findings in words."""
    severity = float(row["severity"])
    grade = "serious" if severity >= SERIOUS else "worth a look" if severity >= NOTABLE else "note"
    compared = f"{row['measure']}: {number(row['value'])}, threshold {number(row['threshold'])}"
    return Item(
        heading=clean(row["rule"].replace("-", " ")),
        grade=f"{grade}, severity {severity:.2f}",
        says=clean(row["says"]),
        evidence=clean(f"{compared}. Source: {row['source']}"),
        advice=clean(row["advice"]),
    )


def _setting(evidence: Any) -> str:
    """How the evidence was gathered, one line; what is not known is left out."""
    known = getattr(evidence, "setting", None)
    facts = [f"torch {known.torch}", f"on {known.device}", f"seed {known.seed}"] if known is not None else []
    rate = getattr(evidence, "lr", None)
    facts += [] if rate is None else [f"learning rate {rate:g}"]
    return clean(", ".join([*([plural(known.n_samples, "sample")] if known is not None else []), *facts]))


def panels(diagnosis: DiagnosisLike) -> list[Panel]:
    """Small figures of what is known by depth; measures that nothing was seen of are left out."""
    frames = {name: evidence_table(diagnosis, name) for name in MEASURES}
    found = []
    for name, frame in frames.items():
        if not frame[name].notna().any():
            continue
        caption = MEASURES[name][2]
        found.append(
            draw_panel(
                f"evidence-{name.replace('_', '-')}",
                partial(evidence_by_depth, frame, measure=name),
                caption=caption,
                alt=f"{caption} By depth.",
                size=(3.6, 2.4),
            )
        )
    return found


def evidence_table(diagnosis: DiagnosisLike, measure: str) -> pd.DataFrame:
    """Rows ``layer depth`` and a measure of MEASURES: of the path, or of the layers or kernels that have it."""
    evidence = diagnosis.evidence
    if measure == "update_ratio":
        return pd.DataFrame(evidence.kernels[["layer", "depth", measure]])
    layers = evidence.layers.assign(share_dead=evidence.layers["n_dead"] / evidence.layers["n_units"])
    rows = layers if measure in {"share_dead", "share_saturated"} else evidence.path
    return pd.DataFrame(rows.reindex(columns=["layer", "depth", measure]).dropna(subset=[measure]))


def evidence_by_depth(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "rms") -> Axes:
    """One measure of the evidence by depth, with the threshold of the rule that looks at it.

    Zero and what is not finite leave gaps on a logarithmic axis; infinite values stand as crosses at the upper edge.

    Args:
        frame: Rows with ``depth`` and the measure, in the order of execution.
        ax: Axes to draw on; a new figure's by default.
        measure: One of MEASURES.

    Returns:
        The axes.

    Raises:
        ConfigError: If measure is none of MEASURES.
    """
    if measure not in MEASURES:
        raise ConfigError(f"measure={measure!r} is none of {', '.join(MEASURES)}")
    label, logarithmic, _ = MEASURES[measure]
    ax = finish(axes(ax, size=(3.6, 2.4)), x="depth", y=label)
    values = frame[measure].to_numpy("float64")
    depths = frame["depth"].to_numpy("float64")
    shown = np.where(np.isfinite(values) & ((values > 0) | (not logarithmic)), values, np.nan)
    if not np.isfinite(shown).any() and not np.isinf(values).any():
        return note(ax, f"no {measure.replace('_', ' ')} was measured")
    ax.plot(
        depths, shown, color=colour(0), linewidth=1.4, marker="o", markersize=2.6, markevery=max(1, len(depths) // 40)
    )
    lost = depths[np.isinf(values)]
    ax.plot(lost, np.full(len(lost), 0.97), "x", color=colour(0), transform=ax.get_xaxis_transform(), markersize=4)
    if measure in LINES:
        ax.axhline(LINES[measure], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    _scale(ax, shown, logarithmic=logarithmic, line=LINES.get(measure))
    return ax


def _scale(ax: Axes, shown: Any, *, logarithmic: bool, line: float | None) -> None:
    """A logarithmic axis with powers of ten, or one from zero."""
    known = [*shown[np.isfinite(shown)], *([line] if line is not None else [])]
    if not known:
        return
    if not logarithmic:
        ax.set_ylim(0, max(known) * 1.08 or 1.0)
        return
    low, high = min(known), max(known)
    ax.set_yscale("log")
    ax.set_ylim(low / 1.5, high * 1.5)
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    if high / low > 30:
        ax.yaxis.set_major_locator(ticker.FixedLocator(decades(low, high)))
    else:
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: number(value, digits=2)))
