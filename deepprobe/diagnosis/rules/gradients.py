"""Rules about what comes back: the gradient's size by depth, its direction, what it does not reach, the Jacobian."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from deepprobe.diagnosis.rules.rule import CALIBRATION, Sign, graded, place, rule

if TYPE_CHECKING:
    import pandas as pd

    from deepprobe.diagnosis.evidence import Evidence

E8 = math.exp(8)
"""Yang et al. 2019 find networks trainable to 16 ξ layers, ξ = 1 / ln λ, with λ the growth of the squared gradient norm
per layer: to a total growth e¹⁶ of the squared norm, e⁸ = 2,981 of the norm."""


@rule(
    threshold=E8,
    source="Yang et al. 2019, section 5: trainable to 16 ξ layers, that is to a growth of the gradient's norm by e⁸ = "
    "2,981; ReLU with batch normalisation and without shortcuts grows by 1.211 a layer (theorem 8)",
    advice="Add shortcuts where there are none (He et al. 2016); without them a smaller γ or a larger ε of batch "
    "normalisation, or fewer layers (Yang et al. 2019). Clipping (Pascanu et al. 2013) bounds the step and does not "
    "balance the layers.",
)
def gradients_explode(evidence: Evidence, threshold: float) -> Sign | None:
    """The gradient's norm grows from the last layer to the first by more than e⁸."""
    found = _ends(evidence)
    if found is None:
        return None
    first, last, ratio = found
    if not ratio > threshold:
        return None
    says = (
        f"Gradients explode toward the input: norm {first['gradient_norm']:.2g} at {place(first)} against "
        f"{last['gradient_norm']:.2g} at {place(last)}{_kernels(evidence)}{_growth(ratio, first, last)}."
    )
    return Sign.at(
        first, graded(ratio, mild=threshold, severe=1e8, least=0.7), says, "gradient norm first / last", ratio
    )


@rule(
    threshold=1 / E8,
    source="the same range of e⁸ downwards: Yang et al. 2019, section 5; Glorot & Bengio 2010, section 4 (vanishing "
    "gradients)",
    advice="Initialise so that the backward variance is kept (He et al. 2015, eq. 14; Glorot & Bengio 2010), use "
    "non-linearities that do not saturate; where there are none, add normalisation (Ioffe & Szegedy 2015) or "
    "shortcuts (He et al. 2016).",
)
def gradients_vanish(evidence: Evidence, threshold: float) -> Sign | None:
    """The gradient's norm falls from the last layer to the first by more than e⁸."""
    found = _ends(evidence)
    if found is None:
        return None
    first, last, ratio = found
    if not ratio < threshold:
        return None
    says = (
        f"Gradients vanish toward the input: norm {first['gradient_norm']:.2g} at {place(first)} against "
        f"{last['gradient_norm']:.2g} at {place(last)}{_kernels(evidence)}{_growth(ratio, first, last)}."
    )
    severity = graded(ratio, mild=threshold, severe=1e-8, least=0.7)
    return Sign.at(first, severity, says, "gradient norm first / last", ratio)


@rule(
    threshold=3.0,
    source="Balduzzi et al. 2017, section 3 (gradients of deep plain networks are white noise, whose mean "
    "cosine is 0); "
    "three standard errors of white noise",
    advice="Where there are none, shortcuts with normalised, scaled branches, or the looks-linear initialisation "
    "(Balduzzi et al. 2017). By itself no obstacle: an untrained pre-activation ResNet-164 shows it too "
    "(docs/diagnosis.md, Calibration).",
)
def gradients_shattered(evidence: Evidence, threshold: float) -> Sign | None:
    """Input gradients at neighbouring points between two samples cannot be told from white noise."""
    value, noise = evidence.gradient_correlation, evidence.gradient_correlation_noise
    if not value < threshold * noise:
        return None
    says = (
        "Gradients are shattered: between points 1/32 of the way from one sample to another the input gradient's mean "
        f"cosine is {value:.2f} (white noise 0.00 ± {noise:.2f})."
    )
    return Sign(0.35, says, "cosine of neighbouring gradients, in standard errors", value / noise)


@rule(
    threshold=1e4,
    source=f"Pennington et al. 2017 (singular values of the Jacobian near 1); {CALIBRATION}",
    advice="An input that changes in its last digits changes the scores: add shortcuts where there are none, or scale "
    "the initialisation towards isometry (Saxe et al. 2014; Xiao et al. 2018).",
)
def jacobian_explodes(evidence: Evidence, threshold: float) -> Sign | None:
    """The largest singular value from input to scores exceeds 10,000."""
    found = evidence.jacobian
    if found is None or evidence.labels is None or not threshold < found.sigma_max < math.inf:
        return None  # what a regression is to answer may be of any scale
    says = (
        f"The scores are {found.sigma_max:.2g} times as sensitive as the input: the largest singular value of the "
        f"Jacobian (median of {found.n_samples} samples)."
    )
    return Sign(
        graded(found.sigma_max, mild=threshold, severe=1e8, least=0.6), says, "σ_max of Jacobian", found.sigma_max
    )


@rule(
    threshold=1e-4,
    source=f"Pennington et al. 2017 (singular values of the Jacobian near 1); {CALIBRATION}",
    advice="The answer hardly depends on the input: scale the initialisation up to isometry (Saxe et al. 2014; He et "
    "al. 2015), or add shortcuts where there are none.",
)
def jacobian_vanishes(evidence: Evidence, threshold: float) -> Sign | None:
    """The largest singular value from input to scores is below 1/10,000."""
    found = evidence.jacobian
    if found is None or evidence.labels is None or not found.sigma_max < threshold:
        return None
    if evidence.has_learned or evidence.head_starts_at_zero:
        return None
    if found.sigma_max == 0 and evidence.outputs is not None and evidence.outputs.spread > 0.05:
        return None  # the network rounds its input, or looks it up: it has no gradient there, and needs none
    says = (
        f"The scores hardly depend on the input: the largest singular value of the Jacobian is {found.sigma_max:.2g} "
        f"(median of {found.n_samples} samples)."
    )
    severity = graded(found.sigma_max, mild=threshold, severe=1e-10, least=0.6)
    return Sign(severity, says, "σ_max of Jacobian", found.sigma_max)


@rule(
    threshold=1.0,
    source="definition: no parameter has requires_grad",
    advice="Set requires_grad_(True) on what is to be trained, a new head at least (Yosinski et al. 2014); look for a "
    "loop over all parameters that froze the head too.",
)
def all_parameters_frozen(evidence: Evidence, threshold: float) -> Sign | None:
    """The network has parameters, and all of them are frozen: nothing can train."""
    structure = evidence.structure
    if structure.n_parameters >= threshold or not structure.n_frozen:
        return None
    says = f"Nothing can train: all {structure.n_frozen:,} parameters are frozen."
    return Sign(0.3 if evidence.has_learned else 1.0, says, "trainable parameters", structure.n_parameters)


@rule(
    threshold=0.0,
    source="definition: what the loss does not depend on cannot learn",
    advice="Use these parameters in the forward pass, freeze or remove them; look for a detach(), an argmax or a "
    "branch that is never taken.",
)
def unreached_parameters(evidence: Evidence, threshold: float) -> Sign | None:
    """The loss does not reach some trainable parameters, or its gradient there is exactly zero."""
    unused, kernels = evidence.structure.unused, evidence.kernels
    zero = kernels[kernels["gradient_norm"] <= threshold]
    zero = zero.iloc[:0] if evidence.zero_starts else zero  # from the second step on it reaches them
    if not unused and zero.empty:
        return None
    trained = kernels["gradient_norm"].notna().sum()
    names = list(dict.fromkeys([*unused, *zero["layer"]]))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    share = len(zero) / trained if trained else 1.0
    says = f"No gradient reaches {shown}: {len(zero)} of {trained} kernels have a gradient of exactly zero."
    severity = 1.0 if share >= 1 else 0.85 if share > 0.5 else 0.5
    if zero.empty:
        return Sign(severity, says, "parameters without a gradient", len(names), unused[0])
    return Sign.at(zero.iloc[0], severity, says, "parameters without a gradient", len(names))


def _ends(evidence: Evidence) -> tuple[pd.Series[Any], pd.Series[Any], float] | None:
    """First and last row of the path that have a gradient, and the ratio of their norms."""
    path = evidence.inner_path
    path = path[np.isfinite(path["gradient_norm"])]
    if len(path) < 3:
        return None
    first, last = path.iloc[0], path.iloc[-1]
    if not last["gradient_norm"] > 0:
        return None
    return first, last, float(first["gradient_norm"] / last["gradient_norm"])


def _kernels(evidence: Evidence) -> str:
    """Kernel gradients of the first and the last kernel, in words."""
    known = evidence.kernels[evidence.kernels["gradient_norm"].notna()]
    if len(known) < 2:
        return ""
    (first, there), (last, here) = (known.iloc[i][["layer", "gradient_norm"]] for i in (0, -1))
    return f" (of kernels {there:.2g} at {first}, {here:.2g} at {last})"


def _growth(ratio: float, first: pd.Series[Any], last: pd.Series[Any]) -> str:
    """Factor a layer, in words."""
    layers = int(last["depth"]) - int(first["depth"])
    return f", a factor of {ratio ** (1 / layers):.3f} a layer" if layers > 0 and ratio > 0 else ""
