"""One thing that was found about a network, in plain words and with its evidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

COLUMNS = ("rank", "rule", "severity", "says", "layer", "depth", "measure", "value", "threshold", "source", "advice")
"""Columns of ``findings_table``."""


@dataclass(frozen=True)
class Finding:
    """What a rule says of a network.

    Attributes:
        rule: Name of the rule, ``"signal-explodes"``.
        severity: How bad and how sure, 0 … 1: 1 cannot train, from 0.7 serious, from 0.4 worth a look, below a note.
        says: One or two sentences with their numbers.
        layer: Where first, or worst; None where it is of the whole network.
        depth: That layer's depth.
        measure: What was compared.
        value: Its value.
        threshold: What it was compared with.
        source: Where the threshold comes from.
        advice: What the literature suggests, with its source.
    """

    rule: str
    severity: float
    says: str
    layer: str | None
    depth: int | None
    measure: str
    value: float
    threshold: float
    source: str
    advice: str


def findings_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as rows, the most severe first (``rank`` from 1); equally severe ones in the order given."""
    ranked = sorted(findings, key=lambda finding: -finding.severity)
    return pd.DataFrame([{"rank": i} | asdict(f) for i, f in enumerate(ranked, start=1)], columns=list(COLUMNS))
