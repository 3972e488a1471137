"""Rules about units: dead, saturated, all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepprobe.diagnosis.rules.rule import CALIBRATION, Sign, extreme, percent, place, rule

if TYPE_CHECKING:
    from deepprobe.diagnosis.evidence import Evidence

VALUES = 8
"""Values of a unit, at least, by which it is called dead: one that fires at every other is silent at 8 once in 256."""


@rule(
    threshold=0.1,
    source=f"Lu et al. 2020, “Dying ReLU and initialization”; share {CALIBRATION}",
    advice="A smaller learning rate or warm-up, another initialisation (Lu et al. 2020), or a leaky ReLU (Maas et al. "
    "2013). A trained network may well do without these units: prune them.",
)
def dead_units(evidence: Evidence, threshold: float) -> Sign | None:
    """A tenth or more of the units of some gated non-linearity are zero on every sample."""
    rows = evidence.layers[evidence.layers["n_dead"].notna() & (evidence.layers["n_units"] > 1)]
    rows = rows[rows["n_rows"] * rows["n_features"] >= VALUES * rows["n_units"]]
    share = rows["n_dead"] / rows["n_units"]
    hit = rows[share >= threshold]
    if hit.empty:
        return None
    first, worst = hit.iloc[0], extreme(rows, share)
    all_dead = rows[share >= 1]
    says = (
        f"Dead units from {place(first)} on: {len(hit)} of {len(rows)} non-linearities have {percent(threshold)} or "
        f"more units that are zero on all {int(worst['n_rows'])} samples, {place(worst)} {percent(share.max())}; "
        f"{percent(rows['n_dead'].sum() / rows['n_units'].sum())} of all units."
    )
    cut = len(all_dead) > 0 and evidence.structure.n_shortcuts == 0
    severity = 1.0 if cut else 0.6 if share.median() >= 0.5 else 0.4 if share.median() >= threshold else 0.3
    return Sign.at(first, severity, says, "share of dead units", share.max())


@rule(
    threshold=0.5,
    source="Glorot & Bengio 2010, section 3 (units stuck where the non-linearity is flat); flat is a slope of a tenth "
    f"of the greatest (deepprobe.probes.saturation); share {CALIBRATION}",
    advice="Scale the weights down, √(2 / (fan_in + fan_out)) (Glorot & Bengio 2010); normalise what is not yet "
    "normalised, the input first, then the layers (Ioffe & Szegedy 2015); or use ReLU.",
)
def saturated_units(evidence: Evidence, threshold: float) -> Sign | None:
    """At some bounded non-linearity half of the values or more lie in its flat part."""
    rows = evidence.layers[evidence.layers["share_saturated"] >= threshold]
    if rows.empty:
        return None
    first, worst = rows.iloc[0], extreme(rows, rows["share_saturated"])
    n = int(evidence.layers["share_saturated"].notna().sum())
    says = (
        f"Units are saturated from {place(first)} on: {len(rows)} of {n} bounded non-linearities have half of their "
        f"values or more where the slope is almost zero, {place(worst)} {percent(worst['share_saturated'])}."
    )
    severity = 0.8 if len(rows) > 1 and worst["share_saturated"] > 0.9 else 0.6
    return Sign.at(first, severity, says, "share of saturated values", worst["share_saturated"])


@rule(
    threshold=0.1,
    source="Goodfellow, Bengio & Courville 2016, section 8.4 (equal units stay equal: symmetry must be broken); share "
    f"{CALIBRATION}",
    advice="Draw the weights at random (Glorot & Bengio 2010; He et al. 2015); zeros only where one factor alone is "
    "zero, as the last layer of a residual branch (Goyal et al. 2017).",
)
def identical_units(evidence: Evidence, threshold: float) -> Sign | None:
    """A tenth or more of a layer's units have the weights of another one, or none at all."""
    kernels = evidence.kernels.iloc[:-1]  # a last layer of zeros is a common, harmless choice
    kernels = kernels[~kernels["layer"].isin(evidence.zero_starts)]
    units = kernels["n_features"].where(kernels["fan_out"] <= kernels["fan_in"], kernels["n_rows"])
    same = kernels["n_twin_units"] + (kernels["n_zero_units"] - 1).clip(lower=0)
    share = same / units.clip(lower=1)
    hit = kernels[(share >= threshold) & (units > 1)]
    if hit.empty:
        return None
    row = hit.assign(same=same).iloc[0]
    says = (
        f"{int(row['same'])} units of {place(row)} have the weights of another unit or none: what is equal is "
        f"trained alike and stays equal ({len(hit)} such layers)."
    )
    return Sign.at(row, 0.9 if share.max() > 0.9 else 0.5, says, "share of identical units", share.max())
