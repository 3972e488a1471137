"""``deepprobe report``: one HTML page from one run or several, or from a lottery-ticket experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from deepprobe.cli.options import STRICT, parse
from deepprobe.cli.runs import open_runs
from deepprobe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ReportOptions:
    """One HTML page from runs: the finding in words, figures by depth and over training, a table of layers.

    It opens without a network. Runs that differ only in the seed are shown as one network. A lottery-ticket experiment
    has a page of its own kind: accuracy against density, tickets against controls, conditioning by round.

    For example:
      deepprobe report runs --html report.html
      deepprobe report runs/plainnet56-seed0 runs/resnet56-seed0 --html report.html --title "With and without shortcuts"
      deepprobe report RUN --html lottery.html
    """

    __pydantic_config__ = STRICT

    runs: Positional[tuple[Path, ...]] = (Path("runs"),)
    """Runs, or folders of runs; or one lottery-ticket experiment."""
    html: Path = Path("report.html")
    """The page to write."""
    title: str | None = None
    """Title of the page; by default the names of the networks."""
    quiet: bool = False
    """Whether to say nothing."""


def run(words: Sequence[str]) -> None:
    """Write the report of some runs, or of an experiment."""
    options = parse(ReportOptions, words, verb="report")
    from deepprobe.runs.experiment import EXPERIMENT

    experiments = [path for path in options.runs if (path / EXPERIMENT).is_file()]
    if not experiments:
        what, written = _of_runs(options)
    elif len(options.runs) == 1:
        what, written = _of_experiment(options)
    else:
        raise ConfigError(f"{experiments[0]} is an experiment, which has a page of its own; name it alone")
    if not options.quiet:
        print(f"report of {what}: {written}")


def _of_runs(options: ReportOptions) -> tuple[str, Path]:
    """Write the page of runs; what it is of, and the page."""
    from deepprobe.reports import write_report

    runs = open_runs(options.runs)
    written = write_report(runs if len(runs) > 1 else runs[0], options.html, title=options.title)
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}", written


def _of_experiment(options: ReportOptions) -> tuple[str, Path]:
    """Write the page of an experiment; what it is of, and the page."""
    from deepprobe.reports import write_lottery_report
    from deepprobe.runs import open_experiment

    experiment = open_experiment(options.runs[0])
    written = write_lottery_report(experiment, options.html, title=options.title)
    return f"an experiment of {len(experiment.runs())} runs", written
