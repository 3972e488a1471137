"""``deepprobe runs``: what is in a folder of runs, and where verbs find the runs that they are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from deepprobe.cli.options import STRICT, parse
from deepprobe.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from deepprobe.runs import Run


@dataclass(frozen=True)
class RunsOptions:
    """Runs in a folder: how far each has come and how accurate it is.

    For example:
      deepprobe runs
      deepprobe runs demo
    """

    __pydantic_config__ = STRICT

    folder: Positional[Path] = Path("runs")
    """Folder of runs."""


def run(words: Sequence[str]) -> None:
    """List the runs in a folder."""
    options = parse(RunsOptions, words, verb="runs")
    table = _listed(options.folder).drop(columns="path")
    written = {"epochs": "{:.2f}".format, "test_accuracy": "{:.1%}".format}
    print(table.to_string(index=False, na_rep="-", formatters=written))


def _listed(folder: Path) -> pd.DataFrame:
    """Table of the runs in a folder; RunError if there is none."""
    from deepprobe.runs import list_runs
    from deepprobe.runs.experiment import EXPERIMENT

    table = list_runs(folder)
    if table.empty:
        made = "lottery" if (folder / EXPERIMENT).is_file() else "train"
        raise RunError(f"there is no run in {folder} yet; runs are written by deepprobe {made} with --out")
    return table


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """Runs that paths name.

    Args:
        paths: Runs, or folders of runs, which stand for all runs in them.

    Returns:
        The runs in the order given, in a folder by name, each once.

    Raises:
        RunError: If a path is neither, a folder holds no run, or a run is damaged.
    """
    from deepprobe.runs import open_run

    found = [path for given in paths for path in _listed(given)["path"]]
    return [open_run(path) for path in dict.fromkeys(found)]
