"""The order of events in a watched training: what each rule saw first, and until when."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pandas as pd

from deepprobe.diagnosis.autopsy.moment import moments
from deepprobe.diagnosis.autopsy.rules import RULES

if TYPE_CHECKING:
    from deepprobe.diagnosis.autopsy.moment import Sign
    from deepprobe.diagnosis.autopsy.rerun import Observed
    from deepprobe.diagnosis.autopsy.rules import Rule

COLUMNS = ("step", "until", "rule", "says", "layer", "depth", "measure", "value", "threshold", "source")
"""Columns of ``events_table``."""


@dataclass(frozen=True)
class Event:
    """Something that a rule saw.

    Attributes:
        step: First step at which it was so; of gradients, updates and weights that to which the update leads.
        until: Last step at which it was so.
        rule: Name of the rule.
        says: A clause with the numbers of the first step.
        layer: Where; None where it is of the whole network.
        depth: That layer's depth.
        measure: Column of the tables that was compared.
        value: What was compared with the threshold.
        threshold: That.
        source: Where the threshold comes from.
    """

    step: int
    until: int
    rule: str
    says: str
    layer: str | None
    depth: int | None
    measure: str
    value: float
    threshold: float
    source: str


def events(seen: Observed) -> tuple[Event, ...]:
    """What happened, ordered by step, and within a step from the gradient to the answer (RULES)."""
    steps = list(moments(seen))
    found = []
    for rule in RULES:
        signs = [(now.step, sign) for now in steps if (sign := rule.look(now, rule.threshold)) is not None]
        if len(signs) >= rule.lasts:
            found.append(_event(rule, signs))
    return tuple(sorted(found, key=lambda event: event.step))


def _event(rule: Rule, signs: list[tuple[int, Sign]]) -> Event:
    """From what a rule saw at one step or several."""
    (step, sign), until = signs[0], signs[-1][0]
    return Event(
        step=step, until=until, rule=rule.name, says=sign.says, layer=sign.layer, depth=sign.depth,
        measure=sign.measure, value=sign.value, threshold=rule.threshold, source=rule.source,
    )  # fmt: skip


def events_table(found: tuple[Event, ...]) -> pd.DataFrame:
    """Events as rows, in their order."""
    return pd.DataFrame([asdict(event) for event in found], columns=list(COLUMNS))
