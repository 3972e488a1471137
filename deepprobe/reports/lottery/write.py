"""The report on a lottery-ticket experiment: one HTML file that needs nothing else, and its tables as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepprobe.reports.html import fill
from deepprobe.reports.lottery import page
from deepprobe.reports.lottery.findings import findings
from deepprobe.reports.lottery.source import read_lottery
from deepprobe.reports.tables import to_csv
from deepprobe.reports.words import clean, plural
from deepprobe.runs.atomic import make_folder, write_bytes

if TYPE_CHECKING:
    from deepprobe.runs import Experiment


def write_lottery_report(source: Experiment | Path | str, path: Path | str, *, title: str | None = None) -> Path:
    """Write a report on a lottery-ticket experiment, complete or not.

    Figures and means are of complete runs; what is not complete is said first. The file opens without a network, as
    that of ``write_report``, and the same experiment gives the same bytes.

    Args:
        source: The experiment, or its folder.
        path: The HTML file to write; replaced in one step.
        title: Heading; made from model and data by default.

    Returns:
        The path written to.

    Raises:
        RunError: If the folder is no experiment, or the file cannot be written.
    """
    target = Path(path)
    text = render_lottery(source, title=title)
    make_folder(target.parent)
    write_bytes(target, text.encode())
    return target


def render_lottery(source: Experiment | Path | str, *, title: str | None = None) -> str:
    """The report as text; arguments and errors as ``write_lottery_report``."""
    lottery = read_lottery(source)
    table = lottery.table
    seeds, rounds = table["seed"].nunique(), int(table["round"].max()) if len(table) else 0
    return fill(
        "lottery.html",
        title=clean(title) if title else f"Lottery tickets: {lottery.name}",
        lead=f"{plural(seeds, 'seed')}, {plural(rounds, 'round')} after the dense one, "
        f"{plural(len(table), 'training')}, {len(lottery.complete)} of them complete.",
        findings=findings(lottery),
        summary=page.summary_table(lottery),
        sections=page.sections(lottery),
        trainings=page.trainings(lottery),
        definitions=page.definitions(lottery),
        provenance=page.provenance(lottery),
    )


def write_lottery_tables(source: Experiment | Path | str, folder: Path | str) -> tuple[Path, ...]:
    """Write ``table.csv``, ``layers.csv``, ``densities.csv`` and ``overlap.csv``, as ``write_tables`` writes text.

    Args:
        source: The experiment, or its folder.
        folder: Where to write; made if it is not there.

    Returns:
        The files' paths.

    Raises:
        RunError: If the folder is no experiment, or a file cannot be written.
    """
    lottery, target = read_lottery(source), Path(folder)
    make_folder(target)
    frames = {
        "table": lottery.table,
        "layers": lottery.layers,
        "densities": lottery.densities,
        "overlap": lottery.overlap,
    }
    for name, frame in frames.items():
        write_bytes(target / f"{name}.csv", to_csv(frame).encode())
    return tuple(target / f"{name}.csv" for name in frames)
