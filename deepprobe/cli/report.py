"""``deepprobe report``: one HTML page from one run or several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from deepprobe.cli.options import STRICT, parse
from deepprobe.cli.runs import open_runs

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ReportOptions:
    """One HTML page from runs: the finding in words, figures by depth and over training, a table of layers.

    It opens without a network. Runs that differ only in the seed are shown as one network.

    For example:
      deepprobe report runs --html report.html
      deepprobe report runs/plainnet56-seed0 runs/resnet56-seed0 --html report.html --title "With and without shortcuts"
    """

    __pydantic_config__ = STRICT

    runs: Positional[tuple[Path, ...]] = (Path("runs"),)
    """Runs, or folders of runs."""
    html: Path = Path("report.html")
    """The page to write."""
    title: str | None = None
    """Title of the page; by default the names of the networks."""
    quiet: bool = False
    """Whether to say nothing."""


def run(words: Sequence[str]) -> None:
    """Write the report of some runs."""
    options = parse(ReportOptions, words, verb="report")
    runs = open_runs(options.runs)
    from deepprobe.reports import write_report

    written = write_report(runs if len(runs) > 1 else runs[0], options.html, title=options.title)
    if not options.quiet:
        print(f"report of {len(runs)} run{'s' if len(runs) > 1 else ''}: {written}")
