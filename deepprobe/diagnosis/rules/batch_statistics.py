"""Rules about batch normalisation: too few values, channels without variance, statistics of another population."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepprobe.diagnosis.rules.rule import CALIBRATION, Sign, extreme, percent, place, rule

if TYPE_CHECKING:
    from deepprobe.diagnosis.evidence import Evidence


@rule(
    threshold=16.0,
    source="sampling theory: a variance of m values has the relative standard error √(2 / (m − 1)), more than a third "
    "below 16; Wu & He 2018, figure 1 (errors rise with batches below 16)",
    advice="Larger batches, or a normalisation that does not look at the batch: group normalisation (Wu & He 2018), "
    "layer normalisation (Ba et al. 2016).",
)
def batch_too_small(evidence: Evidence, threshold: float) -> Sign | None:
    """Batch normalisation takes mean and variance of fewer than 16 values."""
    rows = evidence.norms[evidence.norms["values_per_channel"] < threshold]
    if rows.empty:
        return None
    row = extreme(rows, rows["values_per_channel"], largest=False)
    says = (
        f"{len(rows)} of {len(evidence.norms)} batch normalisations see fewer than {threshold:g} values a channel, "
        f"{place(row)} {row['values_per_channel']:.0f}: their statistics are mostly noise."
    )
    severity = 0.7 if row["values_per_channel"] < 4 else 0.5
    return Sign.at(row, severity, says, "values per channel", row["values_per_channel"])


@rule(
    threshold=0.1,
    source="definition: a channel whose variance is below ε is divided by √ε and not normalised (Ioffe & Szegedy 2015, "
    f"algorithm 1); share {CALIBRATION}",
    advice="Look at what feeds these channels: dead units, weights that are zero or tiny, a constant input.",
)
def channels_without_variance(evidence: Evidence, threshold: float) -> Sign | None:
    """A tenth or more of the channels of some batch normalisation have a variance below its ε."""
    share = evidence.norms["n_constant_channels"] / evidence.norms["n_units"]
    rows = evidence.norms[share >= threshold]
    if rows.empty:
        return None
    row = rows.iloc[0]
    says = (
        f"{int(row['n_constant_channels'])} of {int(row['n_units'])} channels that reach {place(row)} have a variance "
        f"below ε, and so in {len(rows)} of {len(evidence.norms)} batch normalisations."
    )
    return Sign.at(row, 0.8 if share.max() >= 1 else 0.4, says, "share of channels without variance", share.max())


@rule(
    threshold=1.0,
    source="Ioffe & Szegedy 2015, section 3.1 (running statistics stand in for the population's); one batch standard "
    f"deviation, or a factor of ten in scale: {CALIBRATION}",
    advice="Give data of the same preprocessing as in training; train on until the running statistics have settled, "
    "or estimate them anew by forward passes in training mode.",
)
def running_statistics_off(evidence: Evidence, threshold: float) -> Sign | None:
    """Running statistics of a trained batch normalisation are far from those of the batch."""
    norms = evidence.norms
    off = norms[["mean_shift", "scale_shift"]].max(axis=1)
    if not off.max() > threshold:
        return None
    row = extreme(norms, off)
    outputs = evidence.outputs
    harm, words = 0.4, ""
    if outputs is not None and outputs.accuracy - outputs.eval_accuracy > 0.1:
        harm = 0.8
        words = (
            f" Accuracy is {percent(outputs.accuracy)} by the batch's statistics and "
            f"{percent(outputs.eval_accuracy)} in eval()."
        )
    says = (
        f"Running statistics do not fit the data: at {place(row)} the running mean is {row['mean_shift']:.2g} batch "
        f"standard deviations off, the running scale a factor of {10 ** row['scale_shift']:.2g}.{words}"
    )
    return Sign.at(row, harm, says, "shift of running statistics", off.max())
