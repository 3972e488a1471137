"""A layer's singular spectrum and what may truly be said of its condition number.

This file alone decides what *infinite* means. A stored activation is a rounded one, ``|E_ij| <= u |H_ij|`` with u the
unit roundoff of its dtype, so every singular value is known to within

    delta = (u + 8 u_64) ‖H‖_F + eta √(n d)          (Weyl 1912, ‖E‖_2 <= ‖E‖_F)

where eta, half the smallest number of the dtype, is what rounding adds to values too small for relative precision
(in float16 those below 6e-5), and 8 u_64 covers the streaming QR's own backward error (more where the first row is an
outlier) and matters for float64 activations only; and, where a float64 replay measured the arithmetic's own error, to
within the larger of delta and that floor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepprobe.records.layer import LayerCall

UNIT_ROUNDOFF = {
    "float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8,
    "float8_e4m3fn": 2.0**-4, "float8_e4m3fnuz": 2.0**-4, "float8_e5m2": 2.0**-3, "float8_e5m2fnuz": 2.0**-3,
}  # fmt: skip
"""Half the distance from 1 to the next number, by dtype name (Higham 2002, section 2.1)."""

SMALLEST_STEP = {
    "float64": 2.0**-1074, "float32": 2.0**-150, "float16": 2.0**-25, "bfloat16": 2.0**-134,
    "float8_e4m3fn": 2.0**-10, "float8_e4m3fnuz": 2.0**-11, "float8_e5m2": 2.0**-17, "float8_e5m2fnuz": 2.0**-18,
}  # fmt: skip
"""Half the distance from 0 to the next number (float64: all of it), by dtype name."""

STATUSES = (
    "nonfinite",
    "empty",
    "zero",
    "singular-exact",
    "singular-at-precision",
    "unresolved",
    "finite",
)
"""What can be said of a condition number, in the order in which it is decided."""

ARITHMETIC_ROUNDOFF = 8 * 2.0**-53
"""Backward error of accumulation and decomposition in float64, as a share of ‖H‖_F."""

UNRESOLVED_SHARE = 0.01
"""A layer is unresolved where its measured floor exceeds this share of sigma_1."""


def ratio(values: NDArray[np.float64], delta: float = 0.0) -> float:
    """Largest over smallest of descending singular values: inf where the smallest is within delta, NaN of none."""
    if len(values) == 0:
        return float("nan")
    if values[-1] <= delta:
        return float("inf")
    with np.errstate(over="ignore"):
        return float(values[0] / values[-1])


def frobenius_norm(values: NDArray[np.float64]) -> float:
    """‖·‖_F, scaled so that squares neither overflow nor vanish; 0 of nothing."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest * float(np.linalg.norm(values / largest)) if 0 < largest < np.inf else largest


@dataclass(frozen=True)
class Units:
    """Counts of a layer's units (features, columns), over every row that was seen.

    Attributes:
        n_dead: Zero in every row.
        n_constant: The same value in every row, dead ones included.
        n_duplicate: Live units that equal an earlier live unit bit for bit in every row of the spectrum.
        n_rare: Live units that are not zero in fewer than 50 rows.
        n_nonfinite: NaN or infinite values met; their batches are left out of the spectrum.
        first_nonfinite: Index of the first unit that held one, or -1.
    """

    n_dead: int = 0
    n_constant: int = 0
    n_duplicate: int = 0
    n_rare: int = 0
    n_nonfinite: int = 0
    first_nonfinite: int = -1


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one layer call's representation matrix, n rows by d units, and its status.

    Attributes:
        singular_values: Shape (min(n, d),) – centred: (min(n - 1, d),) – float64, descending, in the unit of the
            activations.
        n_rows: Rows n of the matrix.
        n_features: Columns d of the matrix.
        dtype: Name of the activations' dtype, which sets delta.
        frobenius: ‖H‖_F of the *uncentred* matrix: rounding happens before centring.
        call: Which tensor; None for a spectrum of a bare matrix.
        view: How the tensor became rows (``samples`` … ``tokens``).
        rank_bound: Largest rank that shape and architecture allow.
        reasons: Certain causes of singularity, in words; any makes the status ``singular-exact``.
        units: Counts of dead, constant, duplicate, rare and non-finite units.
        over_values: True where n < d is no defect because the view asks whether *rows* can be told apart
            (``samples``, ``hosvd``): kappa is then over the min(n, d) values.
        sketched: True where the values come from a sketch and hold only within ``sketch_distortion``.
        sketch_distortion: Largest relative error of any singular value that the sketch allows, else 0.
        resolution: Backward error of the accumulation, as a share of ‖H‖_F; 4e-8 for a Gram matrix.
        floor: Measured ‖H_32 - H_64‖_2 of a float64 replay, or NaN.
        condition_number_live: Over live units: dead and duplicate ones (centred: constant ones too) taken out.
        condition_number_scaled: Live columns scaled to unit norm; within √d of the best scaling (van der Sluis 1969).
        condition_number_null: Median over draws of a Gaussian matrix of the same shape.
        condition_number_se: Standard error of log10 ``condition_number_live``, in dex, by jackknife over groups of
            samples; NaN where it was not asked for or a κ is not finite.
        condition_number_shuffled: As ``condition_number_live``, after each unit's maps were permuted over the samples.
        condition_number_max: Largest over samples in the ``hosvd`` views, where the row is the median sample's.
        certificate: Exact rank of the stored matrix, or None where it was not asked for or not needed.
        is_centred: Whether the columns' means were taken out.
        centred: The same for the centred matrix; None in the centred one itself.

    Example:
        >>> s = Spectrum.of([4.0, 2.0, 0.5], n_rows=10)
        >>> s.status, s.condition_number, s.numerical_rank
        ('finite', 8.0, 3)
    """

    singular_values: NDArray[np.float64]
    n_rows: int
    n_features: int
    dtype: str
    frobenius: float
    call: LayerCall | None = None
    view: str = "channels"
    rank_bound: int = 0
    reasons: tuple[str, ...] = ()
    units: Units = field(default_factory=Units)
    over_values: bool = False
    sketched: bool = False
    sketch_distortion: float = 0.0
    resolution: float = ARITHMETIC_ROUNDOFF
    floor: float = float("nan")
    condition_number_live: float = float("nan")
    condition_number_scaled: float = float("nan")
    condition_number_null: float = float("nan")
    condition_number_se: float = float("nan")
    condition_number_shuffled: float = float("nan")
    condition_number_max: float = float("nan")
    certificate: int | None = None
    is_centred: bool = False
    centred: Spectrum | None = None

    @classmethod
    def of(cls, values: Any, *, n_rows: int | None = None, dtype: str = "float64") -> Spectrum:
        """Spectrum of bare singular values, sorted; n_rows defaults to their number."""
        sigma = np.sort(np.asarray(values, dtype=np.float64))[::-1]
        return cls(
            singular_values=sigma,
            n_rows=len(sigma) if n_rows is None else n_rows,
            n_features=len(sigma),
            dtype=dtype,
            frobenius=frobenius_norm(sigma),
            rank_bound=len(sigma),
        )

    @property
    def delta(self) -> float:
        """Radius within which rounding lets any singular value lie, ``(u + resolution) ‖H‖_F + eta √(n d)``."""
        underflow = SMALLEST_STEP[self.dtype] * float(np.sqrt(self.n_rows)) * float(np.sqrt(self.n_features))
        return (UNIT_ROUNDOFF[self.dtype] + self.resolution) * self.frobenius + underflow

    @property
    def uncertainty(self) -> float:
        """The larger of delta and the measured floor: every singular value is known to within this."""
        return max(self.delta, self.floor) if self.floor == self.floor else self.delta

    @cached_property
    def status(self) -> str:
        """One of STATUSES: what may be said of the condition number."""
        sigma = self.singular_values
        if self.units.n_nonfinite:
            return "nonfinite"
        if len(sigma) == 0:
            return "empty"
        if sigma[0] == 0.0:
            return "zero"
        if self.reasons:
            return "singular-exact"
        if sigma[-1] <= self.delta:
            return "singular-at-precision"
        if self.floor > UNRESOLVED_SHARE * sigma[0]:
            return "unresolved"
        return "singular-at-precision" if sigma[-1] <= self.uncertainty else "finite"

    @property
    def sigma_max(self) -> float:
        """Largest singular value; NaN of none."""
        return float(self.singular_values[0]) if len(self.singular_values) else float("nan")

    @property
    def sigma_min(self) -> float:
        """The min(n, d)-th singular value (centred: min(n - 1, d)-th); NaN of none."""
        return float(self.singular_values[-1]) if len(self.singular_values) else float("nan")

    @property
    def condition_number(self) -> float:
        """``sigma_1 / sigma_min``; inf where singular or zero; NaN where nonfinite, empty or unresolved."""
        if self.status in {"nonfinite", "empty", "unresolved"}:
            return float("nan")
        return ratio(self.singular_values) if self.status == "finite" else float("inf")

    @property
    def condition_number_low(self) -> float:
        """Lower end of what the data allow, ``(sigma_1 - delta) / (sigma_min + delta)``; inf where certain."""
        if self.status in {"nonfinite", "empty"}:
            return float("nan")
        if self.status in {"zero", "singular-exact"}:
            return float("inf")
        stretch = (1 - self.sketch_distortion) / (1 + self.sketch_distortion)
        low = (self.sigma_max - self.uncertainty) / (self.sigma_min + self.uncertainty)
        return max(1.0, stretch * low)

    @property
    def condition_number_high(self) -> float:
        """Upper end, ``(sigma_1 + delta) / (sigma_min - delta)``; inf where sigma_min is within delta."""
        if self.status in {"nonfinite", "empty"}:
            return float("nan")
        gap = self.sigma_min - self.uncertainty
        if self.status in {"zero", "singular-exact"} or gap <= 0 or self.sketch_distortion >= 1:
            return float("inf")
        stretch = (1 + self.sketch_distortion) / (1 - self.sketch_distortion)
        return stretch * (self.sigma_max + self.uncertainty) / gap

    @property
    def numerical_rank(self) -> int:
        """Number of singular values above delta (above the floor, where one was measured)."""
        return int(np.count_nonzero(self.singular_values > self.uncertainty))

    @property
    def condition_number_rank(self) -> float:
        """``sigma_1 / sigma_r`` over the numerical rank r; NaN at rank 0."""
        return ratio(self.singular_values[: self.numerical_rank])

    @property
    def condition_number_bound(self) -> float:
        """Over the first ``rank_bound`` values: what is left once the architecture's own limit is set aside."""
        return ratio(self.singular_values[: self.rank_bound], self.uncertainty)

    @property
    def effective_rank(self) -> float:
        """``exp(-sum p ln p)``, ``p = sigma / sum sigma`` (Roy & Vetterli 2007, eq. 2–4); NaN of zeros."""
        total = self.singular_values.sum()
        if not total > 0:
            return float("nan")
        p = self.singular_values[self.singular_values > 0] / total
        return float(np.exp(-np.sum(p * np.log(p))))

    @property
    def stable_rank(self) -> float:
        """``‖H‖_F² / sigma_1²`` (Rudelson & Vershynin 2007); NaN of zeros."""
        if not self.sigma_max > 0:
            return float("nan")
        return float(np.sum((self.singular_values / self.sigma_max) ** 2))

    @property
    def participation_ratio(self) -> float:
        """``(sum lambda)² / sum lambda²`` with ``lambda = sigma²``; NaN of zeros."""
        if not self.sigma_max > 0:
            return float("nan")
        lam = (self.singular_values / self.sigma_max) ** 2
        return float(np.sum(lam) ** 2 / np.sum(lam**2))

    def row(self) -> dict[str, Any]:
        """This spectrum as one row of the table that ``condition_numbers`` returns, centred counterparts included."""
        call = self.call
        row: dict[str, Any] = {
            "depth": call.depth if call else 0,
            "layer": call.layer if call else "",
            "call": call.call if call else 1,
            "type": call.type if call else "",
            "tap": call.tap if call else "",
            "view": self.view,
            "n_rows": self.n_rows,
            "n_features": self.n_features,
            "dtype": self.dtype,
            "sketched": self.sketched,
            "n_dead": self.units.n_dead,
            "n_constant": self.units.n_constant,
            "n_duplicate": self.units.n_duplicate,
            "n_rare": self.units.n_rare,
            "n_nonfinite": self.units.n_nonfinite,
        }
        for prefix, spectrum in (("", self), ("centred_", self.centred)):
            if spectrum is not None:
                row |= {prefix + name: getattr(spectrum, name) for name in MEASURES}
                row[prefix + "reason"] = "; ".join(spectrum.reasons)
        return row


MEASURES = (
    "rank_bound",
    "status",
    "condition_number",
    "condition_number_low",
    "condition_number_high",
    "condition_number_live",
    "condition_number_rank",
    "condition_number_bound",
    "condition_number_scaled",
    "condition_number_null",
    "condition_number_se",
    "condition_number_shuffled",
    "condition_number_max",
    "numerical_rank",
    "effective_rank",
    "stable_rank",
    "participation_ratio",
    "sigma_max",
    "sigma_min",
    "delta",
    "floor",
)
"""What a row says of the raw and, prefixed ``centred_``, of the centred matrix; ``reason`` stands beside ``status``."""
