"""Rules about how a network is built and initialised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepprobe.diagnosis.rules.rule import CALIBRATION, Sign, extreme, graded, place, rule

if TYPE_CHECKING:
    import pandas as pd

    from deepprobe.diagnosis.evidence import Evidence

DEEP = 10
"""Weighted layers from which on a network counts as deep."""


@rule(
    threshold=0.0,
    source="rank of a product: scores W h + b have at most the rank of h, and one (Yang, Dai, Salakhutdinov & Cohen "
    "2018, “Breaking the softmax bottleneck”); threshold classes − 1, stated as a margin of 0",
    advice="Make the layer before the scores at least as wide as there are classes.",
)
def structural_bottleneck(evidence: Evidence, threshold: float) -> Sign | None:
    """The layer that gives the scores reads fewer units than there are classes, less one."""
    outputs = evidence.outputs
    rows = evidence.layers[evidence.layers["role"] == "weighted"]
    if outputs is None or evidence.labels is None or evidence.structure.n_shortcuts or len(rows) < 2:
        return None
    heads = evidence.kernels[evidence.kernels["layer"] == rows["layer"].iloc[-1]]
    if heads.empty or rows["n_features"].iloc[-1] != outputs.n_classes:
        return None
    row = heads.iloc[0]
    margin = float(row["fan_in"] - (outputs.n_classes - 1))
    if not margin < threshold:
        return None
    says = (
        f"{place(row)} makes the scores of {outputs.n_classes} classes from {int(row['fan_in'])} values: they have at "
        f"most that rank, and one from a bias, whatever is trained."
    )
    return Sign.at(
        row, 0.6 if 4 * row["fan_in"] < outputs.n_classes - 1 else 0.4, says, "width − (classes − 1)", margin
    )


@rule(
    threshold=10.0,
    source=f"Ioffe & Szegedy 2015; Daneshmand et al. 2020; depth and drift {CALIBRATION}",
    advice="Normalise after each layer (Ioffe & Szegedy 2015; for small batches Ba et al. 2016, Wu & He 2018), or use "
    "an initialisation made for going without (Xiao et al. 2018; Zhang et al. 2019).",
)
def normalisation_missing(evidence: Evidence, threshold: float) -> Sign | None:
    """A deep network has no normalisation, and its signal or gradient changes more than tenfold by depth."""
    structure, path = evidence.structure, evidence.inner_path
    if structure.n_norms or structure.depth < DEEP or len(path) < 3 or evidence.has_learned:
        return None
    drift = {name: _drift(path[name]) for name in ("rms", "gradient_norm")}
    name = max(drift, key=lambda key: drift[key])
    spread = path["spread"].iloc[-1]
    if not drift[name] > threshold and not spread < 0.05:
        return None
    says = (
        f"{structure.depth} layers and no normalisation: from first to last the activations change by a factor of "
        f"{drift['rms']:.2g} and the gradient by {drift['gradient_norm']:.2g}."
    )
    severity = graded(max(drift[name], threshold), mild=threshold, severe=1e8, least=0.4, most=0.8)
    return Sign(severity, says, f"drift of {name.replace('_', ' ')}", drift[name])


def _drift(values: pd.Series[Any]) -> float:
    """Factor between the first and the last value, at least 1; inf where one of them is zero or not finite."""
    first, last = float(values.iloc[0]), float(values.iloc[-1])
    if np.isnan(first) or np.isnan(last):
        return 1.0
    if not (0 < first < np.inf and 0 < last < np.inf):
        return float("inf")
    return max(first / last, last / first)


@rule(
    threshold=100.0,
    source="He et al. 2015, eq. 10–13 (the product of the layers' gains must stay near 1); Glorot & Bengio 2010, eq. "
    f"12, for layers before other non-linearities; factor {CALIBRATION}",
    advice="Draw weights with variance 2 / fan_in before ReLU (He et al. 2015) and 2 / (fan_in + fan_out) else "
    "(Glorot & Bengio 2010). torch's default for linear layers and convolutions has only a sixth of He's variance.",
)
def mis_scaled_initialisation(evidence: Evidence, threshold: float) -> Sign | None:
    """The gains of layers that no normalisation follows multiply to more than 100, or to less than 1/100."""
    kernels = evidence.kernels[~evidence.kernels["normalised"].astype(bool)]
    kernels = kernels[~kernels["layer"].isin(evidence.zero_starts)]
    if evidence.labels is None or evidence.has_learned or len(kernels) < 2 or evidence.structure.n_shortcuts:
        return None  # weights that were trained on a target may have any scale
    known = evidence.structure.activations
    gates = {"ReLU", "LeakyReLU", "PReLU", "ELU", "GELU", "SiLU", "ReLU6"} & set(known)
    usual = [1.0] if gates else [2**0.5] if known else [1.0, 2**0.5]  # of functions nobody knows which they are
    gains = [kernels["he_gain"] * factor for factor in usual]
    with np.errstate(divide="ignore"):
        products = [float(np.exp(np.log(gain.to_numpy("float64")).sum())) for gain in gains]
    if not (min(products) > threshold or max(products) < 1 / threshold):
        return None
    gain, product = min(zip(gains, products, strict=True), key=lambda pair: abs(np.log(pair[1])) if pair[1] else np.inf)
    row = extreme(kernels.assign(gain=gain), gain.clip(lower=1e-300).map(np.log).abs())
    says = (
        f"Initial weights are mis-scaled: over {len(kernels)} layers without normalisation their gains multiply to "
        f"{product:.2g}; {place(row)} has {row['gain']:.2g} times the usual scale."
    )
    severity = graded(max(product, 1 / product) if product else np.inf, mild=threshold, severe=1e8, most=0.9)
    return Sign.at(row, severity, says, "product of gains", product)
