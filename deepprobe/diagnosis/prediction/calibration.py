"""From features to a probability: logistic regression, fitted on short trainings and kept as plain numbers.

log-odds = intercept + Σ weight · (x − centre) / scale over *terms* x. Two terms are the square of a feature's distance
from its median over the calibration's networks: an update can be too small as well as too large. The rest are features.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from deepprobe.diagnosis.prediction.features import FEATURES
from deepprobe.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

TWO_SIDED = ("update_median", "descent")
"""Features that also count by their squared distance from the middle of the calibration."""

FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """Coefficients, and the trainings that they were fitted on.

    Attributes:
        about: Definition of "trains", how many trainings, of what, with which versions; ``limits`` of their networks
            and batches, if known (``prediction.limits.beyond``).
        middle: Median of each feature over the calibration, in the order of FEATURES.
        centre: Mean of each term.
        scale: Standard deviation of each term.
        weights: Weight of each standardised term.
        intercept: Log-odds at the mean of all terms.
        configurations: Settings of each training, in words.
        features: Their features, one row a training.
        trained: Whether each of them trained.
    """

    about: dict[str, Any]
    middle: list[float]
    centre: list[float]
    scale: list[float]
    weights: list[float]
    intercept: float
    configurations: list[str]
    features: list[list[float]]
    trained: list[bool]

    def terms(self, features: ArrayLike) -> NDArray[np.float64]:
        """Standardised terms, shape (n, terms), of features of shape (n, features) in the order of FEATURES."""
        return (_terms(_rows(features), np.array(self.middle)) - self.centre) / self.scale

    def contributions(self, features: ArrayLike) -> NDArray[np.float64]:
        """What each feature adds to the log-odds, shape (n, features); with the intercept they sum to the log-odds."""
        parts = self.terms(features) * self.weights
        found = parts[:, : len(FEATURES)].copy()
        for i, name in enumerate(TWO_SIDED):
            found[:, FEATURES.index(name)] += parts[:, len(FEATURES) + i]
        return found

    def probability(self, features: ArrayLike) -> NDArray[np.float64]:
        """Probability of training, shape (n,), of features of shape (n, features)."""
        odds = self.intercept + self.contributions(features).sum(axis=1)
        return np.asarray(0.5 * (1 + np.tanh(odds / 2)))  # the logistic function without overflow

    def range(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Smallest and largest value of each feature over the calibration."""
        seen = np.array(self.features)
        return seen.min(axis=0), seen.max(axis=0)

    def distances(self, features: ArrayLike) -> NDArray[np.float64]:
        """Distance from one network's features, shape (features,), to each training, in standard deviations."""
        away = (np.array(self.features) - _rows(features)) / np.array(self.scale)[: len(FEATURES)]
        return np.asarray(np.sqrt((away**2).mean(axis=1)))

    def to_json(self) -> str:
        """All of it, numbers to six digits."""
        return json.dumps(_rounded(asdict(self)), ensure_ascii=False, separators=(",", ":")).replace("],[", "],\n[")

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """What ``to_json`` wrote.

        Raises:
            ConfigError: If it is of other features, or damaged.
        """
        try:
            found = cls(**json.loads(text))
            n_terms = len(FEATURES) + len(TWO_SIDED)
            fits = len(found.weights) == len(found.centre) == len(found.scale) == n_terms
            if not fits or {len(row) for row in found.features} != {len(FEATURES)}:
                raise ValueError(f"{len(found.weights)} weights where {n_terms} are needed")
        except (ValueError, TypeError) as error:
            raise ConfigError(f"this calibration cannot be read ({error}); make it with calibrate()") from None
        return found


def calibrate(
    features: pd.DataFrame,
    trained: Sequence[bool] | NDArray[np.bool_],
    *,
    configurations: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit the coefficients: logistic regression with an L2 penalty of unit strength on standardised terms.

    Args:
        features: One row a training, columns FEATURES.
        trained: Whether each trained; both must occur.
        configurations: Settings of each, in words.
        about: What to remember of the trainings.

    Returns:
        The calibration.

    Raises:
        ShapeError: If lengths differ, or all or none trained.
    """
    from sklearn.linear_model import LogisticRegression  # needed to fit, not to predict

    labels = np.asarray(trained, dtype=bool)
    rows = features[list(FEATURES)].to_numpy(dtype="float64")
    if len(labels) != len(rows) or labels.all() or not labels.any():
        raise ShapeError(f"{labels.sum()} of {len(labels)} trained, with {len(rows)} rows of features: both must occur")
    middle = np.median(rows, axis=0)
    terms = _terms(rows, middle)
    centre, deviation = terms.mean(axis=0), terms.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    fitted = LogisticRegression(C=1.0, max_iter=10_000).fit((terms - centre) / scale, labels)
    return Calibration(
        about=dict(about or {}),
        middle=middle.tolist(),
        centre=centre.tolist(),
        scale=scale.tolist(),
        weights=fitted.coef_[0].tolist(),
        intercept=float(fitted.intercept_[0]),
        configurations=list(configurations) if configurations is not None else [""] * len(rows),
        features=rows.tolist(),
        trained=labels.tolist(),
    )


@cache
def default_calibration() -> Calibration:
    """The calibration that comes with the package (docs/results/will-it-train.md)."""
    return Calibration.from_json(files(__package__).joinpath(FILE).read_text(encoding="utf-8"))


def _terms(rows: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features, then the squared distances of TWO_SIDED, shape (n, terms)."""
    sided = [FEATURES.index(name) for name in TWO_SIDED]
    return np.hstack([rows, (rows[:, sided] - middle[sided]) ** 2])


def _rows(features: ArrayLike) -> NDArray[np.float64]:
    """Features as rows."""
    return np.atleast_2d(np.asarray(features, dtype=np.float64))


def _rounded(value: Any) -> Any:
    """Numbers of a nested list or table to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value
