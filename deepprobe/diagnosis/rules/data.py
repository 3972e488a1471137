"""Rules about inputs and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepprobe.diagnosis.rules.rule import CALIBRATION, Sign, percent, rule

if TYPE_CHECKING:
    from deepprobe.diagnosis.evidence import Evidence

SCALE_FREE = 0.3
"""Severity of a scale that the first layer's normalisation takes out."""


@rule(
    threshold=0.0,
    source="definition: what is the same for every sample tells nothing apart (LeCun et al. 1998, “Efficient "
    "BackProp”, "
    "section 4.3)",
    advice="Leave the feature out, or look why it is constant: a column that was not read, a channel that was not "
    "filled.",
)
def constant_inputs(evidence: Evidence, threshold: float) -> Sign | None:
    """A channel of the images, or a feature of the vectors, is the same in every sample."""
    inputs = evidence.inputs
    if inputs is None or inputs.n_samples < 8 or len(inputs.constant_channels) <= threshold:
        return None
    n, of = len(inputs.constant_channels), inputs.shape[0]
    what = "features" if len(inputs.shape) == 1 else "channels"
    shown = ", ".join(str(i) for i in inputs.constant_channels[:6])
    says = f"{n} of {of} input {what} are the same in all {inputs.n_samples} samples: {shown}{' …' if n > 6 else ''}."
    severity = 1.0 if n == of else 0.5 if n / of > 0.2 else 0.3
    return Sign(severity, says, f"constant {what}", n)


@rule(
    threshold=10.0,
    source="LeCun et al. 1998, “Efficient BackProp”, section 4.3 (inputs of mean 0 and variance 1); a factor of ten: "
    f"{CALIBRATION}",
    advice="Take the training set's mean off and divide by its standard deviation, feature by feature or channel by "
    "channel (LeCun et al. 1998).",
)
def inputs_not_scaled(evidence: Evidence, threshold: float) -> Sign | None:
    """Inputs are more than ten times too large or small, or their mean is ten standard deviations off zero."""
    inputs = evidence.inputs
    if inputs is None or not inputs.std > 0:
        return None
    size = max(inputs.mean**2 + inputs.std**2, 0.0) ** 0.5
    off = max(size, 1 / size, abs(inputs.mean) / inputs.std)
    if not off > threshold:
        return None
    says = (
        f"Inputs lie between {inputs.least:.3g} and {inputs.greatest:.3g}, mean {inputs.mean:.3g}, standard deviation "
        f"{inputs.std:.3g}: not centred and scaled."
    )
    normalised = len(evidence.kernels) > 0 and bool(evidence.kernels["normalised"].iloc[0])
    return Sign(SCALE_FREE if normalised else 0.6, says, "factor off mean 0, size 1", off)


@rule(
    threshold=100.0,
    source="LeCun et al. 1998, “Efficient BackProp”, section 5.1 (features of different scale make the loss "
    f"ill-conditioned); a factor of a hundred: {CALIBRATION}",
    advice="Divide each feature by its own standard deviation or range (LeCun et al. 1998).",
)
def input_scales_differ(evidence: Evidence, threshold: float) -> Sign | None:
    """The ranges of input features, or channels, differ by more than a hundredfold."""
    inputs = evidence.inputs
    if inputs is None or not inputs.range_ratio > threshold:
        return None
    what = "features" if len(inputs.shape) == 1 else "channels"
    says = (
        f"The widest range, largest less smallest value, of the input {what} is {inputs.range_ratio:.3g} "
        f"times the narrowest."
    )
    return Sign(0.6, says, "ratio of ranges", inputs.range_ratio)


@rule(
    threshold=0.0,
    source="IEEE 754: NaN and infinity spread to every score",
    advice="Find the samples, and leave out or repair them.",
)
def nonfinite_inputs(evidence: Evidence, threshold: float) -> Sign | None:
    """Inputs hold NaN or infinite values."""
    inputs = evidence.inputs
    if inputs is None or inputs.n_nonfinite <= threshold:
        return None
    says = f"{inputs.n_nonfinite} input values of {inputs.n_samples} samples are NaN or infinite."
    return Sign(1.0, says, "values not finite", inputs.n_nonfinite)


@rule(
    threshold=2.0,
    source="definition: with one class there is nothing to tell apart",
    advice="Shuffle the data before taking batches; look whether labels were read.",
)
def single_class(evidence: Evidence, threshold: float) -> Sign | None:
    """All samples have the same label."""
    labels = evidence.labels
    if labels is None or len(labels.counts) >= threshold or labels.n_samples < 8:
        return None
    says = f"All {labels.n_samples} samples have the label {next(iter(labels.counts))}."
    return Sign(0.9, says, "classes", len(labels.counts))


@rule(
    threshold=10.0,
    source="Buda, Maki & Mazurowski 2018, “A systematic study of the class imbalance problem”: ratios of 10 and more "
    "lower the accuracy; twice the standard error of a count is allowed for",
    advice="Judge by balanced accuracy; oversample rare classes (Buda et al. 2018).",
)
def class_imbalance(evidence: Evidence, threshold: float) -> Sign | None:
    """The commonest class is more than ten times as frequent as the rarest of those seen."""
    labels = evidence.labels
    if labels is None or len(labels.counts) < 2:
        return None
    counts = list(labels.counts.values())
    ratio = (counts[0] - 2 * counts[0] ** 0.5) / (counts[-1] + 2 * counts[-1] ** 0.5)
    if not ratio > threshold:
        return None
    says = (
        f"Classes are imbalanced: {counts[0]} of {labels.n_samples} samples have the label "
        f"{next(iter(labels.counts))}, "
        f"{counts[-1]} the rarest one; always answering the first is right for {percent(labels.majority_share)}."
    )
    return Sign(0.5, says, "ratio of class frequencies, at least", ratio)


@rule(
    threshold=0.0,
    source="definition: two answers to one question",
    advice="Remove duplicates, or correct their labels (Northcutt et al. 2021, “Pervasive label errors in test sets”).",
)
def contradicting_labels(evidence: Evidence, threshold: float) -> Sign | None:
    """Equal inputs have different labels."""
    inputs = evidence.inputs
    if inputs is None or inputs.n_contradicting <= threshold:
        return None
    share = inputs.n_contradicting / inputs.n_samples
    says = (
        f"{inputs.n_contradicting} of {inputs.n_samples} samples equal an earlier one and have another label than it: "
        f"no network can answer both."
    )
    return Sign(0.7 if share > 0.1 else 0.4, says, "contradicting samples", inputs.n_contradicting)
