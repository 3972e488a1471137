"""What a report on a lottery-ticket experiment is made from: its frames, read once, with printable names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from deepprobe.reports.source import model_name
from deepprobe.reports.words import clean
from deepprobe.runs import Experiment, open_experiment, open_run

_NAMES = ("run", "branch", "layer", "status", "tap", "view")


@dataclass(frozen=True, eq=False)
class Lottery:
    """Everything that is shown of one experiment.

    Attributes:
        name: Its model and data, or the folder's name; printable, not yet escaped.
        config: Its settings.
        provenance: Of its first run.
        table: ``Experiment.table``.
        complete: The rows of it whose runs are complete, which figures and means are of.
        layers: ``Experiment.layers`` of complete runs.
        densities: ``Experiment.densities`` of complete runs.
        overlap: ``Experiment.mask_overlap`` of complete runs.
    """

    name: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    table: pd.DataFrame
    complete: pd.DataFrame
    layers: pd.DataFrame
    densities: pd.DataFrame
    overlap: pd.DataFrame

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the lottery itself: rounds, seeds, controls and so on; empty where there are none."""
        found = self.config.get("lottery")
        return found if isinstance(found, Mapping) else {}


def read_lottery(source: Experiment | Path | str) -> Lottery:
    """Read an experiment.

    Args:
        source: The experiment, or its folder.

    Raises:
        RunError: If the folder is no experiment, or its ``experiment.json`` is damaged.
    """
    experiment = source if isinstance(source, Experiment) else open_experiment(source)
    table = _printable(experiment.table())
    complete = table[table["status"] == "complete"]
    layers, densities = _printable(experiment.layers()), _printable(experiment.densities())
    runs = experiment.runs()
    first = runs.loc[runs["status"] != "damaged", "path"]
    return Lottery(
        name=_name(experiment),
        config=experiment.config,
        provenance=open_run(first.iloc[0]).provenance if len(first) else {},
        table=table,
        complete=complete,
        layers=layers[layers["run"].isin(complete["run"])],
        densities=densities[densities["run"].isin(complete["run"])],
        overlap=_between_complete(_printable(experiment.mask_overlap()), complete),
    )


def _between_complete(overlap: pd.DataFrame, complete: pd.DataFrame) -> pd.DataFrame:
    """Those pairs of runs that are both complete."""
    done = set(zip(complete["round"], complete["branch"], complete["seed"], strict=True))
    both = [
        (number, branch, one) in done and (number, branch, other) in done
        for number, branch, one, other in zip(
            *(overlap[c] for c in ("round", "branch", "seed", "other_seed")), strict=True
        )
    ]
    return overlap[pd.Series(both, index=overlap.index, dtype=bool)]


def _name(experiment: Experiment) -> str:
    """Model and data of an experiment, else the name of its folder."""
    data = experiment.config.get("data", "")
    data = data.get("name", "") if isinstance(data, Mapping) else data
    names = [model_name(experiment.config), data if isinstance(data, str) else ""]
    return clean(" on ".join(n for n in names if n) if names[0] else experiment.name, limit=120)


def _printable(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose names came through ``clean``."""
    text = {c: frame[c].astype(object).where(frame[c].notna(), "").map(clean) for c in _NAMES if c in frame}
    return frame.assign(**{name: column.astype(object) for name, column in text.items()})
