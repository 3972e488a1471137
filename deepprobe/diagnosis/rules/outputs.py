"""Rules about what the network answers, and about its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepprobe.diagnosis.rules.rule import CALIBRATION, Sign, extreme, graded, percent, place, rule

if TYPE_CHECKING:
    from deepprobe.diagnosis.evidence import Evidence


@rule(
    threshold=0.05,
    source=f"as samples-indistinguishable, for the scores (Schoenholz et al. 2017, section 3); {CALIBRATION}",
    advice="Look where the samples become alike (rank, spread by depth). After training it is the mark of a collapse: "
    "a smaller learning rate, warm-up (Goyal et al. 2017), or shortcuts where there are none.",
)
def constant_predictions(evidence: Evidence, threshold: float) -> Sign | None:
    """Less than 5 % of the scores' norm differs between samples: the answer does not depend on the input."""
    outputs = evidence.outputs
    if outputs is None or outputs.share_nonfinite > 0 or evidence.head_starts_at_zero:
        return None
    if evidence.labels is None and not np.isnan(
        outputs.loss
    ):  # a regression: how far its target is off zero is its own
        return None
    if not outputs.spread < threshold:
        return None
    says = (
        f"The network answers every sample alike: {percent(outputs.spread)} of the scores' norm differs between "
        f"samples, {outputs.n_predicted} of {outputs.n_classes} classes are predicted."
    )
    return Sign(graded(outputs.spread, mild=threshold, severe=1e-3, least=0.6, most=0.9), says, "spread of scores",
                outputs.spread)  # fmt: skip


@rule(
    threshold=0.01,
    source="definition: softmax of probabilities is at most e / (e + C − 1), so that the cross-entropy of C classes "
    "stays above ln(1 + (C − 1) / e); torch's cross-entropy takes logits (documentation of CrossEntropyLoss)",
    advice="Leave the softmax out of the network and keep cross-entropy, or keep it and take the negative logarithm "
    "of the right class's score as the loss.",
)
def softmax_twice(evidence: Evidence, threshold: float) -> Sign | None:
    """Scores are probabilities already (none negative, sums of 1), and cross-entropy takes a softmax of them."""
    outputs = evidence.outputs
    if outputs is None or outputs.n_classes < 2 or not outputs.off_probability < threshold:
        return None
    if not np.isclose(outputs.loss, outputs.cross_entropy, rtol=1e-3):
        return None
    least = float(np.log1p((outputs.n_classes - 1) / np.e))
    says = (
        f"The network ends in a softmax and cross-entropy takes another: the loss cannot fall below {least:.3g} "
        f"(equal scores: {outputs.loss_at_chance:.3g}), and gradients are small."
    )
    return Sign(0.8, says, "largest |Σ scores − 1|", outputs.off_probability)


@rule(
    threshold=2.0,
    source="Karpathy 2019, “A recipe for training neural networks” (verify the loss at initialisation, ln classes); "
    f"twice that: {CALIBRATION}",
    advice="Before training: scale the last layer down, or start it at zero; the first steps are else spent on that. "
    "After training: it has diverged.",
)
def loss_above_chance(evidence: Evidence, threshold: float) -> Sign | None:
    """The loss is more than twice that of answering at random."""
    outputs = evidence.outputs
    if outputs is None or evidence.labels is None or evidence.has_learned or not np.isfinite(outputs.loss):
        return None
    ratio = outputs.loss / outputs.loss_at_chance if outputs.loss_at_chance > 0 else 0.0
    if not ratio > threshold:
        return None
    says = (
        f"The loss is {outputs.loss:.3g}, that of equal scores {outputs.loss_at_chance:.3g}: the network is surer than "
        f"it has reason to be (rms of scores {outputs.rms:.2g})."
    )
    return Sign(graded(ratio, mild=threshold, severe=1e4, least=0.3, most=0.8), says, "loss / loss at chance", ratio)


@rule(
    threshold=1.0,
    source="a step as large as the weights replaces them; Bernstein et al. 2020, “On the distance between two neural "
    f"networks” (relative steps add up over layers), rule of thumb 10⁻³ (Karpathy, CS231n); {CALIBRATION}",
    advice="Lower the learning rate, warm up (Goyal et al. 2017), or clip the gradient (Pascanu et al. 2013); where a "
    "few layers only are affected, balance the gradient by shortcuts, if there are none, or by relative steps (You et "
    "al. 2017, LARS).",
)
def update_too_large(evidence: Evidence, threshold: float) -> Sign | None:
    """The first step of plain SGD changes some kernel by more than its own norm."""
    kernels = evidence.kernels[np.isfinite(evidence.kernels["update_ratio"].astype("float64"))]
    if kernels.empty or not kernels["update_ratio"].max() > threshold:
        return None
    row = extreme(kernels, kernels["update_ratio"])
    n = int((kernels["update_ratio"] > threshold).sum())
    says = (
        f"At learning rate {evidence.lr:g} the first step changes {place(row)} by {row['update_ratio']:.2g} times its "
        f"norm, and {n} of {len(kernels)} kernels by more than their norm."
    )
    mild = 0.5 if n <= 2 else 0.7
    severity = graded(row["update_ratio"], mild=threshold, severe=1e3, least=mild)
    return Sign.at(row, severity, says, "‖ΔW‖ / ‖W‖", row["update_ratio"])


@rule(
    threshold=1e-5,
    source="rule of thumb 10⁻³ (Karpathy, CS231n, “ratio of weights:updates”); a hundredth of it",
    advice="Raise the learning rate (Smith 2017, range test).",
)
def update_too_small(evidence: Evidence, threshold: float) -> Sign | None:
    """The first step of plain SGD changes no kernel by more than 1/100,000 of its norm."""
    known = evidence.kernels[np.isfinite(evidence.kernels["update_ratio"].astype("float64"))]
    if known.empty or evidence.has_learned or evidence.zero_starts or not known["update_ratio"].max() < threshold:
        return None
    row = extreme(known, known["update_ratio"])
    says = (
        f"At learning rate {evidence.lr:g} no kernel changes by more than {row['update_ratio']:.1g} of its norm in a "
        f"step ({place(row)}): training takes for ever."
    )
    return Sign.at(row, 0.7, says, "‖ΔW‖ / ‖W‖", row["update_ratio"])
