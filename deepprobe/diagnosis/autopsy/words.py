"""A watched training in one paragraph: how it went, what happened when, and what did not."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepprobe.diagnosis.autopsy.moment import place, short
from deepprobe.diagnosis.rules.rule import percent

if TYPE_CHECKING:
    from deepprobe.diagnosis.autopsy.events import Event
    from deepprobe.diagnosis.autopsy.rerun import Observed

LEARNT = 0.9
"""Share of a constant answer's loss below which something is learnt."""


FALLEN = 0.5
"""Share of the loss before training below which it has fallen."""

HALVED = 0.5
"""Share of the effective rank before training below which its fall is told."""


def outcome(seen: Observed) -> str:
    """``diverged``, ``learns``, ``falls`` or ``stuck``, by the median loss of the last three steps seen.

    It learns where that is below 90 % of a constant answer's, and falls where it is at least below half of what it was.
    """
    if seen.status == "diverged":
        return "diverged"
    last = seen.steps.iloc[1:].tail(3)
    loss = last["loss"].median()
    if loss < LEARNT * last["chance"].iloc[-1]:
        return "learns"
    return "falls" if loss < FALLEN * seen.steps["loss"].iloc[0] else "stuck"


def paragraph(seen: Observed, found: tuple[Event, ...]) -> str:
    """All that is to be said, in a few sentences."""
    said = [_rates(seen), _verdict(seen, found)]
    last = int(seen.steps["step"].max())
    for step, together in groupby(found, key=lambda event: event.step):
        said.append(f"{_when(step)}: {'; '.join(event.says + _until(event, last) for event in together)}.")
    return " ".join([*said, *_spared(seen, found)])


def _rates(seen: Observed) -> str:
    """The learning rates of the updates, in one sentence: first, highest, last, and the highest of the schedule."""
    config, rates = seen.config, seen.steps.set_index("step")["lr"].dropna()
    kind = config.schedule + (" after a warm-up" if config.warmup_epochs else "")
    if not len(rates):
        return f"Learning rate of at most {short(config.lr, 3)} ({kind})."
    parts, told = [f"{short(rates.iloc[0], 3)} in step {rates.index[0]}"], rates.iloc[0]
    for step in dict.fromkeys((int(rates.index[int(rates.argmax())]), int(rates.index[-1]))):
        if short(rates[step], 3) != short(told, 3):
            parts.append(f"{'rising' if rates[step] > told else 'falling'} to {short(rates[step], 3)} by step {step}")
            told = rates[step]
    if len(parts) == 1:
        parts = [short(told, 3)]
    most = f", of at most {short(config.lr, 3)}" if short(rates.max(), 3) != short(config.lr, 3) else ""
    return f"Learning rate {', '.join(parts)}{most} ({kind})."


def _when(step: int) -> str:
    """A step as the beginning of a sentence."""
    return "Before training" if step == 0 else f"Step {step}"


def _until(event: Event, last: int) -> str:
    """Until when something was so, where it was over before the end."""
    if event.measure == "precision" or event.until >= last - 1:  # replays are not made at every step
        return ""
    return " (then only)" if event.until == event.step else f" (until step {event.until})"


def _verdict(seen: Observed, found: tuple[Event, ...]) -> str:
    """How it went, in one sentence."""
    loss, n = seen.steps["loss"], int(seen.steps["step"].max())
    chance = short(seen.steps["chance"].iloc[0])
    course = f"loss {short(loss.iloc[0])} → {short(loss.iloc[-1])}; a constant answer's is {chance}"
    steps = f"the first {n} steps" if n > 1 else "the first step"
    how = outcome(seen)
    if how == "diverged":
        return f"The training diverged: {seen.message}."
    if found:
        begun = {"learns": "The network learns", "falls": "The loss falls", "stuck": "Nothing is learnt"}[how]
        return f"{begun} in {steps} ({course})."
    yet = {"learns": "", "falls": ", and the loss falls", "stuck": ", and nothing is learnt yet"}[how]
    return f"Nothing failed in {steps}{yet} ({course}): {_state(seen)}."


def _state(seen: Observed) -> str:
    """Gradients, updates, rank and dead units over all steps, in numbers."""
    kernels, layers = seen.kernels, seen.layers
    ends = kernels[kernels["gradient_norm"] > 0].sort_values("depth", kind="stable").groupby("step")["gradient_norm"]
    factors = np.exp(np.abs(np.log(ends.first() / ends.last())))
    ratios = kernels["update_ratio"].replace([np.inf], np.nan)
    words = [
        f"gradient norms of the first and the last kernel within a factor {short(factors.max())}",
        f"updates at most {short(ratios.max())} of a kernel's norm, {short(ratios.median())} in the median",
        f"numerical rank {int(layers['numerical_rank'].min())} of {_full(seen)} and effective rank "
        f"{short(layers['effective_rank'].min())} at the least",
    ]
    if layers["dead_share"].notna().any():
        words.append(f"at most {percent(layers['dead_share'].max())} of a layer's units dead")
    return ", ".join(words)


def _full(seen: Observed) -> int:
    """Greatest rank that the probe batch allows."""
    return int(seen.layers[["n_rows", "n_features"]].min(axis=1).max())


def _spared(seen: Observed, found: tuple[Event, ...]) -> list[str]:
    """What the events leave open where there are any: how the representation fared meanwhile."""
    rank = seen.layers["numerical_rank"].where(seen.layers["max_abs"] > 0, 0.0)
    said = [sentence] if found and (sentence := _effective_rank(seen)) else []
    if found and rank.min() == _full(seen):
        said.append(f"All the while the representation has full numerical rank, {_full(seen)} at every layer.")
    return said


def _effective_rank(seen: Observed) -> str | None:
    """Where the effective rank fell most from before training to the last step, if by more than half."""
    ranks = seen.layers.pivot_table(index=["layer", "depth", "call"], columns="step", values="effective_rank")
    fallen = (ranks.iloc[:, -1] / ranks.iloc[:, 0]).dropna()
    if not len(fallen) or not fallen.min() < HALVED:
        return None
    course = ranks.loc[fallen.index[int(fallen.argmin())]]
    where = place(pd.Series(course.name, index=ranks.index.names))
    since = int(course.index[int((course < HALVED * course.iloc[0]).argmax())])
    return (
        f"The effective rank of {where} falls from {short(course.iloc[0])} to {short(course.iloc[-1])}, and below half "
        f"of that first in step {since}."
    )
