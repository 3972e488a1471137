"""What can go wrong in one step: each rule a small function of the step and its threshold.

The order of RULES is that of cause and effect within one step: the gradient, the update that the optimizer makes of it,
the weights afterwards, what the network computes with them, what it answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepprobe.diagnosis.autopsy.moment import Moment, Sign, from_here_on, place, short
from deepprobe.diagnosis.rules.rule import percent

MEASURED = "measured: docs/autopsy.md, Thresholds"
"""Source of a threshold that is this project's own."""

E8 = math.exp(8)
"""Yang et al. 2019, section 5: trainable to 16 ξ layers, that is up to a growth e¹⁶ of the squared gradient norm."""

TINIEST = 1e-30
"""Gradient norms below this are lost: squared, they are below the smallest float32."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: ``gradients-explode``.
        finds: When it speaks, the first line of its function's docstring.
        threshold: What is compared with.
        source: Where that comes from.
        look: The function.
        lasts: At how many steps it must be so, to be told.
    """

    name: str
    finds: str
    threshold: float
    source: str
    look: Callable[[Moment, float], Sign | None]
    lasts: int = 1


RULES: list[Rule] = []
"""All rules, in the order in which events of one step are told."""


def rule(*, threshold: float, source: str, lasts: int = 1) -> Callable[[Callable[[Moment, float], Sign | None]], Rule]:
    """Put a function of a step and a threshold among RULES, named after it."""

    def made(look: Callable[[Moment, float], Sign | None]) -> Rule:
        finds = (look.__doc__ or "").strip().splitlines()[0]
        RULES.append(Rule(look.__name__.replace("_", "-"), finds, threshold, source, look, lasts))
        return RULES[-1]

    return made


@rule(threshold=E8, source="Yang et al. 2019, section 5 and theorem 8")
def gradients_explode(now: Moment, threshold: float) -> Sign | None:
    """The gradient's norm, before clipping, grows from the last kernel to the first by more than e⁸ = 2,981."""
    return _between_ends(now, lambda first, last: first / last, threshold)


@rule(threshold=E8, source="the same range downwards; Glorot & Bengio 2010, section 4")
def gradients_vanish(now: Moment, threshold: float) -> Sign | None:
    """The gradient's norm falls from the last kernel to the first by more than e⁸ = 2,981."""
    return _between_ends(now, lambda first, last: last / first, threshold)


def _between_ends(now: Moment, ratio: Callable[[float, float], float], threshold: float) -> Sign | None:
    """Compare the gradients of the first and the last kernel."""
    rows = now.kernels[now.kernels["gradient_norm"] > TINIEST]
    if len(rows) < 3:
        return None
    first, last = rows.iloc[0], rows.iloc[-1]
    value = ratio(first["gradient_norm"], last["gradient_norm"])
    if not value > threshold:
        return None
    ends = f"gradient norm {short(first['gradient_norm'])} at {place(first)} against {short(last['gradient_norm'])}"
    return Sign.at(first, f"{ends} at {place(last)}", "gradient_norm", value)


@rule(threshold=0.5, source=f"Lu et al. 2020 (dying ReLU): what gets no gradient does not learn; share {MEASURED}")
def gradient_is_lost(now: Moment, threshold: float) -> Sign | None:
    """At least half of the kernels get no gradient at all (norm below 1e-30)."""
    known = now.kernels[now.kernels["gradient_norm"].notna()]
    lost = known[known["gradient_norm"] <= TINIEST]
    if not len(known) or len(lost) < threshold * len(known):
        return None
    verb = "gets" if len(lost) == 1 else "get"
    says = f"{len(lost)} of {len(known)} kernels {verb} no gradient, the deepest {place(lost.iloc[-1])}"
    return Sign.at(lost.iloc[-1], says, "gradient_norm", len(lost) / len(known))


@rule(threshold=0.01, source=f"Pascanu et al. 2013, section 3.2: clipping bounds the step; factor {MEASURED}")
def clipping_shrinks(now: Moment, threshold: float) -> Sign | None:
    """Clipping leaves a hundredth of the gradient or less."""
    factor = float(now.numbers["clip_factor"])
    if not factor < threshold:
        return None
    says = f"clipping multiplies a gradient of norm {short(now.numbers['gradient_norm'])} by {short(factor)}"
    return Sign(says, "clip_factor", factor)


@rule(threshold=1.0, source=f"1e-3 is the rule of thumb (Karpathy, CS231n); beyond 1 nothing is left; {MEASURED}")
def weights_are_overwritten(now: Moment, threshold: float) -> Sign | None:
    """An update is larger than the weights of the kernel that it changes, if these were not zero."""
    ratio = now.kernels["update_ratio"].where(lambda r: np.isfinite(r))
    if not (ratio > threshold).any():
        return None
    row, n = now.kernels.iloc[int(np.nanargmax(ratio))], int((ratio > threshold).sum())
    says = f"the update is {short(ratio.max())} times the weights of {place(row)}"
    return Sign.at(row, says + f", and exceeds those of {n} of {len(ratio)} kernels", "update_ratio", ratio.max())


@rule(threshold=1e-5, source=f"a hundredth of Karpathy's rule of thumb (CS231n, 1e-3); {MEASURED}")
def weights_stand_still(now: Moment, threshold: float) -> Sign | None:
    """Updates of at least half of the kernels that get a gradient are less than 1e-5 of their weights."""
    rows = now.kernels[(now.kernels["gradient_norm"] > TINIEST) & now.kernels["update_ratio"].notna()]
    if not len(rows):
        return None
    still = rows[rows["update_ratio"] < threshold]
    if len(still) * 2 < len(rows):
        return None
    row = still.iloc[int(np.argmin(still["update_ratio"]))]
    says = (
        f"updates are less than {short(threshold)} of the weights' norm in {len(still)} of {len(rows)} kernels: "
        f"{short(row['update_ratio'])} at {place(row)}, {short(rows['update_ratio'].median())} in the median"
    )
    return Sign.at(row, says, "update_ratio", float(rows["update_ratio"].median()))


@rule(threshold=10.0, source=f"healthy networks stay below 5 in 20 steps: {MEASURED}")
def weights_leave_their_scale(now: Moment, threshold: float) -> Sign | None:
    """The weights of a kernel have grown to more than ten times their norm before training."""
    growth = now.kernels["growth"].where(lambda r: np.isfinite(r))
    if not (growth > threshold).any():
        return None
    row, n = now.kernels.iloc[int(np.nanargmax(growth))], int((growth > threshold).sum())
    says = (
        f"weights of {place(row)} are {short(growth.max())} times their initial norm, up to {short(row['weight_max'])}"
    )
    grown = f"{n} of {len(growth)} kernels {'has' if n == 1 else 'have'} grown tenfold"
    return Sign.at(row, f"{says}; {grown}", "growth", growth.max())


@rule(threshold=0.0, source="IEEE 754: NaN and infinity do not go away by training")
def nonfinite_values(now: Moment, threshold: float) -> Sign | None:
    """A layer gives NaN or infinite values."""
    rows = now.layers[now.layers["share_nonfinite"] > threshold]
    if not len(rows):
        return None
    row = rows.iloc[0]
    says = f"NaN or infinite values from {place(row)} on, {percent(row['share_nonfinite'])} of them there"
    return Sign.at(row, says, "share_nonfinite", row["share_nonfinite"])


@rule(
    threshold=100.0, source="He et al. 2015, eq. 10–14: the second moment must not grow with depth; factor " + MEASURED
)
def signal_explodes(now: Moment, threshold: float) -> Sign | None:
    """Activations grow a hundredfold or more from the first layer to a later one."""
    ratio = _relative_rms(now)
    if ratio is None or not ratio.max() > threshold:
        return None
    first, row = now.layers.iloc[0], now.layers.iloc[int(np.nanargmax(ratio))]
    says = f"activations grow from rms {short(first['rms'])} at {place(first)} to {short(row['rms'])} at {place(row)}"
    return Sign.at(row, says, "rms", ratio.max())


@rule(
    threshold=0.01, source="He et al. 2015, eq. 10–14: the second moment must not fall with depth; factor " + MEASURED
)
def signal_dies(now: Moment, threshold: float) -> Sign | None:
    """From some layer on activations are a hundredth of the first layer's or less, now and before training."""
    ratio = _relative_rms(now)
    before = now.first_layers["rms"].iloc[0]
    ratio = None if ratio is None else np.maximum(ratio, now.layers["rms"] / before)
    start = None if ratio is None else from_here_on(ratio < threshold)
    if ratio is None or start is None:
        return None
    first, row, last = now.layers.iloc[0], now.layers.iloc[start], now.layers.iloc[-1]
    says = f"activations fall from rms {short(first['rms'])} at {place(first)} to {short(row['rms'])} at {place(row)}"
    return Sign.at(row, f"{says} and {short(last['rms'])} at {place(last)}", "rms", ratio.iloc[start:].min())


def _relative_rms(now: Moment) -> pd.Series[float] | None:
    """Root mean square of each layer over that of the first; None where that is nothing to compare with."""
    rms = now.layers["rms"].where(np.isfinite(now.layers["rms"]))
    return rms / rms.iloc[0] if len(rms) > 1 and rms.iloc[0] > 0 else None


@rule(threshold=100.0, source=f"factor {MEASURED}")
def activations_leap(now: Moment, threshold: float) -> Sign | None:
    """A layer's activations have grown to more than a hundred times what they were before training."""
    before = now.first_layers["rms"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = now.layers["rms"] / (before if len(before) == len(now.layers) else np.nan)
    ratio = ratio.where(np.isfinite(ratio))
    if not (ratio > threshold).any():
        return None
    row = now.layers.iloc[int(np.nanargmax(ratio))]
    says = f"activations of {place(row)} are {short(ratio.max())} times what they were before training"
    return Sign.at(row, says, "rms", ratio.max())


@rule(
    threshold=2.0, source="Daneshmand et al. 2020; effective rank of Roy & Vetterli 2007: as rank-collapse of diagnose"
)
def rank_collapse(now: Moment, threshold: float) -> Sign | None:
    """From some layer on the effective rank is below 2, in a network that has learned nothing."""
    rows = now.layers[now.layers["share_nonfinite"] == 0]
    if not len(rows) or rows["n_rows"].min() < 16 or _has_learned(now):
        return None
    rank = rows["effective_rank"].where(rows["max_abs"] > 0, 0.0)
    start = from_here_on((rank < threshold) & (rows["n_features"] >= 4))
    if start is None:
        return None
    row = rows.iloc[start]
    says = f"the representation collapses to effective rank {rank.iloc[start]:.2f} from {place(row)} on"
    before = now.first_layers[(now.first_layers[["layer", "call"]] == row[["layer", "call"]]).all(axis=1)]
    after = f", after {short(before['effective_rank'].iloc[0])} before training" if now.step and len(before) else ""
    return Sign.at(row, says + after, "effective_rank", rank.iloc[start])


def _has_learned(now: Moment) -> bool:
    """Whether the probe batch is answered better than by its commonest label, by more than four standard errors."""
    share, n = float(now.numbers["majority_share"]), int(now.layers["n_rows"].max())
    return bool(now.numbers["accuracy"] > share + 4 * math.sqrt(share * (1 - share) / n))


@rule(threshold=0.1, source=f"float32 tells no more directions apart (σ > 2⁻²⁴ ‖H‖_F); share {MEASURED}")
def numerical_rank_is_low(now: Moment, threshold: float) -> Sign | None:
    """From some layer on the numerical rank over the probe batch is a tenth of its samples or less."""
    rows = now.layers[now.layers["share_nonfinite"] == 0]
    n = rows[["n_rows", "n_features"]].min(axis=1)
    rank = rows["numerical_rank"].where(rows["max_abs"] > 0, 0.0)
    start = from_here_on(rank <= threshold * n)
    if start is None or n.max() < 10:
        return None
    row, lowest = rows.iloc[start], int(rank.iloc[start:].min())
    says = f"numerical rank {int(rank.iloc[start])} of {n.iloc[start]} from {place(row)} on"
    worse = f", at least {lowest}" if lowest != int(rank.iloc[start]) else ""
    return Sign.at(row, says + worse, "numerical_rank", rank.iloc[start])


@rule(threshold=0.05, source=f"Schoenholz et al. 2017, section 3 (correlations that go to 1); {MEASURED}")
def samples_indistinguishable(now: Moment, threshold: float) -> Sign | None:
    """From some layer on less than 5 % of the activations' norm differs between samples."""
    rows = now.layers[now.layers["share_nonfinite"] == 0]
    spread = rows["spread"].where(rows["max_abs"] > 0, 0.0)
    start = from_here_on(spread < threshold)
    if start is None:
        return None
    here, low = spread.iloc[start], start + int(np.nanargmin(spread.iloc[start:]))
    row, lowest = rows.iloc[start], rows.iloc[low]
    says = f"samples are indistinguishable from {place(row)} on: {percent(here)} of the norm differs there"
    least = f", {percent(spread.iloc[low])} at {place(lowest)}" if lowest["depth"] != row["depth"] else ""
    return Sign.at(row, says + least, "spread", here)


@rule(threshold=0.9, source=f"Lu et al. 2020 (dying ReLU); share {MEASURED}")
def dead_units(now: Moment, threshold: float) -> Sign | None:
    """In some layer nine tenths of the units or more are zero on every sample."""
    rows = now.layers[now.layers["dead_share"] >= threshold]
    if not len(rows):
        return None
    row, n_all = rows.iloc[0], int((rows["dead_share"] == 1).sum())
    says = f"{int(row['n_dead'])} of {int(row['n_units'])} units are dead at {place(row)}"
    more = f"; {len(rows)} layers are like that, {n_all} of them wholly dead" if len(rows) > 1 else ""
    return Sign.at(row, says + more, "dead_share", row["dead_share"])


@rule(threshold=0.01, source="Weyl's inequality: more than 1 % of σ₁ is rounding (docs/definitions.md, floor)")
def precision_horizon(now: Moment, threshold: float) -> Sign | None:
    """From some layer on float32 and float64 disagree by more than 1 %: the precision horizon."""
    rows = now.layers[now.layers["precision"].notna()]
    start = from_here_on(rows["precision"] > threshold)
    if start is None:
        return None
    row, last = rows.iloc[start], rows.iloc[-1]
    says = (
        f"float32 is off by more than {percent(threshold)} from {place(row)} on (precision horizon), at {place(last)} "
        f"by {percent(last['precision'])}"
    )
    return Sign.at(row, says, "precision", row["precision"])


@rule(threshold=3.0, source=f"factor {MEASURED}")
def loss_explodes(now: Moment, threshold: float) -> Sign | None:
    """The loss on the probe batch is three times what it was before training, and three times chance, or more."""
    loss, before = float(now.numbers["loss"]), max(float(now.first_numbers["loss"]), float(now.numbers["chance"]))
    if not loss > threshold * before:
        return None
    says = f"loss {short(loss)} after {short(float(now.first_numbers['loss']))} before training"
    return Sign(says, "loss", loss / before)


@rule(threshold=1.0, source="accuracy is then the share of one label: Oyedotun et al. 2021, table I", lasts=3)
def constant_predictions(now: Moment, threshold: float) -> Sign | None:
    """One class is predicted for the whole probe batch, whose labels are several, after three updates or more."""
    if not now.step or now.numbers["n_predicted_classes"] > threshold or now.numbers["majority_share"] == 1:
        return None
    says = f"one class is predicted for every sample, accuracy {percent(now.numbers['accuracy'])}"
    return Sign(says, "n_predicted_classes", float(now.numbers["n_predicted_classes"]))


def rules_table() -> pd.DataFrame:
    """One row a rule: its name, when it speaks, its threshold and its source; for the documentation."""
    rows = [{"rule": r.name, "finds": r.finds, "threshold": f"{r.threshold:.4g}", "source": r.source} for r in RULES]
    return pd.DataFrame(rows)
