"""Rules about what goes forward: its size, its rank, its precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepprobe.diagnosis.rules.rule import CALIBRATION, Sign, extreme, from_here_on, graded, percent, place, rule
from deepprobe.diagnosis.watching import GRAM_SAMPLES

if TYPE_CHECKING:
    import pandas as pd

    from deepprobe.diagnosis.evidence import Evidence


@rule(
    threshold=100.0,
    source=f"He et al. 2015, eq. 10–14 (the second moment must not grow with depth); factor {CALIBRATION}",
    advice="Scale the weights to the non-linearity (He et al. 2015); normalise where there is no normalisation (Ioffe "
    "& Szegedy 2015); where there are residual branches, scale them down (Zhang et al. 2019, Fixup; De & Smith 2020).",
)
def signal_explodes(evidence: Evidence, threshold: float) -> Sign | None:
    """Activations grow a hundredfold or more from the first layer to a later one."""
    path = _finite_path(evidence)
    if len(path) < 3 or not path["rms"].iloc[0] > 0:
        return None
    ratio = path["rms"] / path["rms"].iloc[0]
    if not ratio.max() > threshold:
        return None
    first, worst = path[ratio > threshold].iloc[0], extreme(path, ratio)
    says = (
        f"Activations grow with depth: rms {path['rms'].iloc[0]:.2g} at {place(path.iloc[0])}, more than "
        f"{threshold:g} times that from {place(first)} on, {worst['rms']:.2g} at {place(worst)}."
    )
    return Sign.at(first, graded(ratio.max(), mild=threshold, severe=1e12), says, "rms ratio to first", ratio.max())


@rule(
    threshold=0.01,
    source=f"He et al. 2015, eq. 10–14 (the second moment must not fall with depth); factor {CALIBRATION}",
    advice="Scale the weights to the non-linearity, √(2 / fan_in) for ReLU (He et al. 2015); where there are none, "
    "add normalisation (Ioffe & Szegedy 2015) or shortcuts (He et al. 2016).",
)
def signal_dies(evidence: Evidence, threshold: float) -> Sign | None:
    """Activations shrink to a hundredth or less of the first layer's."""
    path = _finite_path(evidence)
    if len(path) < 3 or not path["rms"].iloc[0] > 0:
        return None
    ratio = path["rms"] / path["rms"].iloc[0]
    if not ratio.min() < threshold:
        return None
    first, worst = path[ratio < threshold].iloc[0], extreme(path, ratio, largest=False)
    says = (
        f"The signal dies with depth: rms {path['rms'].iloc[0]:.2g} at {place(path.iloc[0])}, less than "
        f"{threshold:g} of that from {place(first)} on, {worst['rms']:.2g} at {place(worst)}."
    )
    return Sign.at(first, graded(ratio.min(), mild=threshold, severe=1e-8), says, "rms ratio to first", ratio.min())


@rule(
    threshold=0.05,
    source=f"Schoenholz et al. 2017, section 3 (correlations between inputs that go to 1 end trainability); "
    f"{CALIBRATION}",
    advice="Initialise at the edge of chaos (Schoenholz et al. 2017); where there are none, add batch normalisation, "
    "which keeps samples apart (Daneshmand et al. 2020), or shortcuts (He et al. 2016).",
)
def samples_indistinguishable(evidence: Evidence, threshold: float) -> Sign | None:
    """From some layer on less than 5 % of the activations' norm differs between samples."""
    path = _finite_path(evidence)
    if path["spread"].isna().all() or path["n_rows"].max() < 2:
        return None
    spread = path["spread"].where(path["rms"] > 0, 0.0)
    start = from_here_on(spread < threshold)
    if start is None:
        return None
    row, last = path.iloc[start], path.iloc[-1]
    says = (
        f"Samples can no longer be told apart from {place(row)} on: only {percent(spread.iloc[-1])} of the norm "
        f"at {place(last)} differs between samples (mean cosine {last['cosine']:.4f})."
    )
    severity = graded(spread.iloc[start:].min(), mild=threshold, severe=1e-3, least=0.6)
    return Sign.at(row, severity, says, "spread between samples", spread.iloc[-1])


@rule(
    threshold=2.0,
    source="Daneshmand et al. 2020 (rank collapse with depth); effective rank of Roy & Vetterli 2007; two directions "
    f"tell two groups apart and no more: {CALIBRATION}",
    advice="Where there is none, batch normalisation keeps the rank from collapsing (Daneshmand et al. 2020), and so "
    "do shortcuts; after a training that failed, look at its first steps (deepprobe autopsy): a smaller learning "
    "rate, warm-up or clipping (Goyal et al. 2017).",
)
def rank_collapse(evidence: Evidence, threshold: float) -> Sign | None:
    """From some layer on the effective rank is below 2, in a network that has learned nothing."""
    path = _finite_path(evidence)
    enough = path["n_rows"].min() >= 16 if len(path) else False
    if not enough or path["effective_rank"].isna().all() or evidence.has_learned:
        return None
    outputs = evidence.outputs
    if evidence.labels is None and outputs is not None and outputs.n_classes < threshold:
        return None  # one target asks for one direction
    rank = path["effective_rank"].where(path["rms"] > 0, 0.0)
    start = from_here_on((rank < threshold) & (path["n_features"] >= 4))
    if start is None:
        return None
    row = path.iloc[start]
    says = (
        f"The representation collapses to {rank.iloc[start]:.2f} directions (effective rank) of "
        f"{min(row['n_rows'], GRAM_SAMPLES)} samples from {place(row)} on; it begins with {rank.iloc[0]:.1f}."
    )
    severity = 0.5 + 0.4 * (threshold - max(float(rank.iloc[start:].min()), 1.0))
    return Sign.at(row, severity, says, "effective rank", rank.iloc[start])


@rule(
    threshold=0.0,
    source="IEEE 754: NaN and infinity do not go away by training",
    advice="Find what divides by zero or overflows at the layer named; look at the inputs; lower the learning rate or "
    "clip the gradient (Pascanu et al. 2013) where training brought it about.",
)
def nonfinite_values(evidence: Evidence, threshold: float) -> Sign | None:
    """A layer, or the loss, gives NaN or infinite values."""
    rows = evidence.layers[evidence.layers["share_nonfinite"] > threshold]
    if len(rows):
        row = rows.iloc[0]
        says = (
            f"{percent(row['share_nonfinite'])} of the values that {place(row)} gives are NaN or infinite; it is the "
            f"first."
        )
        return Sign.at(row, 1.0, says, "share of values not finite", row["share_nonfinite"])
    if evidence.outputs is not None and np.isinf(evidence.outputs.loss):
        return Sign(1.0, f"The loss is {evidence.outputs.loss}, though all layers are finite.", "loss", np.inf)
    return None


@rule(
    threshold=0.01,
    source="Weyl's inequality: beyond it more than 1 % of the largest singular value is rounding (docs/definitions.md, "
    "floor); the measure is this project's own",
    advice="Do not read numbers of deeper layers in float32; what makes rounding grow makes the gradient grow as "
    "well: shortcuts, where there are none, keep both small (He et al. 2016; Yang et al. 2019).",
)
def precision_horizon(evidence: Evidence, threshold: float) -> Sign | None:
    """From some layer on float32 and float64 disagree by more than 1 %."""
    path = evidence.path
    path = path[path["precision"].notna()] if "precision" in path else path.iloc[:0]
    start = from_here_on(path["precision"] > threshold) if len(path) else None
    if start is None:
        return None
    row, last = path.iloc[start], path.iloc[-1]
    says = (
        f"Float32 cannot resolve what layers from {place(row)} on compute: they differ from a float64 pass by "
        f"{percent(row['precision'])} there and {percent(last['precision'])} at {place(last)}."
    )
    severity = graded(path["precision"].iloc[start:].max(), mild=threshold, severe=1.0, most=0.8)
    return Sign.at(row, severity, says, "‖H₃₂ − H₆₄‖₂ / ‖H‖₂", row["precision"])


def _finite_path(evidence: Evidence) -> pd.DataFrame:
    """The representation by depth, as far as it is finite, without answers whose size the target sets."""
    path = evidence.inner_path
    path = path[(path["share_nonfinite"] == 0) & (path["rms"] < np.inf)]
    return path.reset_index(drop=True)
