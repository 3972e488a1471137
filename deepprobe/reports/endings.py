"""How trainings ended that did not come to their end, and whether layers were probed where accuracy was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepprobe.reports.words import clean, number

if TYPE_CHECKING:
    import pandas as pd

    from deepprobe.reports.source import Network, RunFacts

UNFINISHED = {"diverged": "diverged", "interrupted": "interrupted", "running": "not finished"}
"""Statuses of a run that is not complete, in words; ``running`` also stands on one whose process died."""


def endings(network: Network) -> list[str]:
    """A sentence for each run that is not complete: what became of it, where, and from which step its layers are.

    Args:
        network: One network.

    Returns:
        Sentences in the order of its runs; none of runs that are complete or do not say.
    """
    return [_ending(network, run) for run in network.runs if run.status in UNFINISHED]


def _ending(network: Network, run: RunFacts) -> str:
    """The sentence of one run."""
    trained, probed = _last(network.metrics, run), _last(network.layers, run)
    reached = "before the first evaluation" if np.isnan(trained) else f"at step {number(trained)}"
    if run.status == "running":
        reached = "and without an evaluation yet" if np.isnan(trained) else f"and recorded up to step {number(trained)}"
    message = clean(run.message).rstrip(".")
    says = f"{UNFINISHED[run.status]} {reached}" + (f": {message}" if message else "")
    says = f"Run {run.name}: {says}" if len(network.runs) > 1 else says[:1].upper() + says[1:]
    return says + ("; no layer was probed." if np.isnan(probed) else f"; the last probe is of step {number(probed)}.")


def probed_at_the_end(network: Network) -> bool:
    """Whether the last probe of every run is not older than its last accuracy, so that the two may stand together."""
    accuracy = network.metrics[network.metrics["measure"] == "accuracy"]
    return not any(_last(network.layers, run) < _last(accuracy, run) for run in network.runs)


def n_diverged(network: Network) -> int:
    """How many runs of a network have diverged."""
    return sum(run.status == "diverged" for run in network.runs)


def _last(frame: pd.DataFrame, run: RunFacts) -> float:
    """Last step of a run in a frame; NaN if there is none."""
    steps = frame.loc[frame["run"] == run.name, "step"]
    return float(steps.max()) if len(steps) else float("nan")
