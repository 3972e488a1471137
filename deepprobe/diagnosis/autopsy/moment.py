"""One step of a watched training, as rules are given it, and the words they use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from deepprobe.diagnosis.autopsy.rerun import Observed


@dataclass(frozen=True, eq=False)
class Moment:
    """A step t of a training.

    Attributes:
        step: t; 0 is the untrained network.
        layers: Rows of the network as it stands, in the order of execution.
        kernels: Rows of the update that led here, by depth; none at step 0.
        numbers: Loss, predictions, learning rate, norm of the whole gradient.
        first_layers: ``layers`` of step 0.
        first_numbers: ``numbers`` of step 0.
    """

    step: int
    layers: pd.DataFrame
    kernels: pd.DataFrame
    numbers: pd.Series[Any]
    first_layers: pd.DataFrame
    first_numbers: pd.Series[Any]


def moments(seen: Observed) -> Iterator[Moment]:
    """Every step that was seen, in order."""
    layers, kernels = dict(list(seen.layers.groupby("step"))), dict(list(seen.kernels.groupby("step")))
    numbers = {int(row["step"]): row for _, row in seen.steps.iterrows()}
    for step, row in numbers.items():
        of_update = kernels.get(step, seen.kernels.iloc[:0]).sort_values("depth", kind="stable")
        yield Moment(step, layers[step], of_update.reset_index(drop=True), row, layers[0], numbers[0])


@dataclass(frozen=True)
class Sign:
    """What a rule saw at one step.

    Attributes:
        says: A clause with its numbers.
        measure: The column that was compared.
        value: What was compared with the threshold.
        layer: Where.
        depth: That layer's depth.
    """

    says: str
    measure: str
    value: float
    layer: str | None = None
    depth: int | None = None

    @classmethod
    def at(cls, row: pd.Series[Any], says: str, measure: str, value: float) -> Sign:
        """At a row of a table of layers or kernels."""
        return cls(says, measure, float(value), str(row["layer"]), int(row["depth"]))


def place(row: pd.Series[Any]) -> str:
    """A row's layer and depth in words."""
    return f"{row['layer'] or 'the layer'} (depth {row['depth']})"


def short(value: float, digits: int = 2) -> str:
    """A number in two digits or as many as are asked for: ``0.31``, ``12``, ``7.1e7``.

    Example:
        >>> short(0.314), short(12.4), short(71234567.0), short(3e-10), short(0.125, 3)
        ('0.31', '12', '7.1e7', '3e-10', '0.125')
    """
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    if exponent and 0 <= int(exponent) < 4:
        return f"{value:.0f}"
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def from_here_on(holds: pd.Series[bool]) -> int | None:
    """First place from which on a condition holds for that layer and at least 90 % of those to come (``onset``)."""
    held = holds.to_numpy(dtype=bool)
    later = np.cumsum(held[::-1])[::-1]
    enough = held & (later >= 0.9 * np.arange(len(held), 0, -1))
    return int(np.argmax(enough)) if enough.any() else None
