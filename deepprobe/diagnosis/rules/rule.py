"""What a rule is: a small function of the evidence, and beside it its threshold, its source and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from deepprobe.records.finding import Finding

if TYPE_CHECKING:
    import pandas as pd

    from deepprobe.diagnosis.evidence import Evidence

CALIBRATION = "measured: docs/diagnosis.md, Calibration"
"""Source of a threshold that is this project's own."""


@dataclass(frozen=True)
class Sign:
    """What a rule saw.

    Attributes:
        severity: As in ``Finding``.
        says: In words, with the numbers.
        measure: What was compared with the threshold.
        value: Its value.
        layer: Where first, or worst.
        depth: That layer's depth.
    """

    severity: float
    says: str
    measure: str
    value: float
    layer: str | None = None
    depth: int | None = None

    @classmethod
    def at(cls, row: pd.Series[Any], severity: float, says: str, measure: str, value: float) -> Sign:
        """A sign at a row of a table of layers or kernels."""
        return cls(severity, says, measure, float(value), str(row["layer"]), int(row["depth"]))


@dataclass(frozen=True)
class Rule:
    """One rule; calling it applies it.

    Attributes:
        name: ``signal-explodes``.
        finds: When it speaks, one sentence.
        threshold: What is compared with.
        source: Where the threshold and the idea come from.
        advice: What the literature suggests.
        look: The function.
    """

    name: str
    finds: str
    threshold: float
    source: str
    advice: str
    look: Callable[[Evidence, float], Sign | None]

    def __call__(self, evidence: Evidence) -> Finding | None:
        """What the rule finds in the evidence, if anything."""
        sign = self.look(evidence, self.threshold)
        if sign is None:
            return None
        return Finding(
            rule=self.name,
            severity=round(min(max(sign.severity, 0.0), 1.0), 2),
            says=sign.says,
            layer=sign.layer,
            depth=sign.depth,
            measure=sign.measure,
            value=sign.value,
            threshold=self.threshold,
            source=self.source,
            advice=self.advice,
        )


Look: TypeAlias = Callable[["Evidence", float], Sign | None]
"""From evidence and threshold to what is seen."""


def rule(*, threshold: float, source: str, advice: str) -> Callable[[Look], Rule]:
    """Make a function a rule named after it; the first line of its docstring says what it finds."""

    def made(look: Look) -> Rule:
        finds = (look.__doc__ or "").strip().splitlines()[0]
        return Rule(look.__name__.replace("_", "-"), finds, threshold, source, advice, look)

    return made


def graded(value: float, *, mild: float, severe: float, least: float = 0.5, most: float = 1.0) -> float:
    """Severity from ``least`` at mild to ``most`` at severe, linear in the logarithm; most where not finite."""
    if not math.isfinite(value) or value <= 0:
        return most
    share = (math.log(value) - math.log(mild)) / (math.log(severe) - math.log(mild))
    return least + (most - least) * min(max(share, 0.0), 1.0)


def from_here_on(holds: pd.Series[bool]) -> int | None:
    """First place from which on a condition holds to the end, None where it does not hold at the end."""
    fails = [i for i, held in enumerate(holds) if not held]
    start = fails[-1] + 1 if fails else 0
    return start if start < len(holds) else None


def extreme(table: pd.DataFrame, values: pd.Series[Any], *, largest: bool = True) -> pd.Series[Any]:
    """The row of a table whose value is the largest, or the smallest; NaN is neither."""
    known = values.to_numpy("float64")
    return table.iloc[int(np.nanargmax(known) if largest else np.nanargmin(known))]


def percent(share: float) -> str:
    """A share as a percentage: one digit from 0.1 % on, two that count below; ``3.1 %``, ``50 %``, ``0.0012 %``."""
    value = 100 * share
    text = f"{value:.2g}" if 0 < abs(value) < 0.1 else f"{value:.1f}".removesuffix(".0")
    return f"{text} %"


def place(row: pd.Series[Any]) -> str:
    """A row's layer and depth in words."""
    return f"{row['layer'] or 'the layer'} (depth {row['depth']})"
