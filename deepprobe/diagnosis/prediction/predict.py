"""Will it train? A probability for one network, one batch and one learning rate, with its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepprobe.diagnosis.prediction.calibration import Calibration, default_calibration
from deepprobe.diagnosis.prediction.features import FEATURES, initial_features

if TYPE_CHECKING:
    import torch
    from torch import nn

    from deepprobe.probes.gradients import Loss

N_NEAREST = 5
TOLERANCE = 0.05
"""Share of a feature's calibrated range by which it may lie outside."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """How probable it is that a network trains, and why.

    Attributes:
        probability: Of training, as ``docs/results/will-it-train.md`` defines it.
        features: One row a feature: ``feature value contribution low high outside``. Contributions are to the log-odds,
            from the calibration's mean network on; low and high are the calibrated range.
        nearest: The calibration's trainings with the nearest features: ``configuration trained distance``, the
            distance in standard deviations, root mean square over features.
        base_rate: Share of the calibration's trainings that trained.
    """

    probability: float
    features: pd.DataFrame
    nearest: pd.DataFrame
    base_rate: float

    @property
    def trains(self) -> bool:
        """Whether training is more probable than not."""
        return self.probability >= 0.5

    @property
    def outside(self) -> tuple[str, ...]:
        """Features beyond the calibrated range; where there are any, the probability is an extrapolation."""
        return tuple(self.features.loc[self.features["outside"], "feature"])

    def __str__(self) -> str:
        """In words: the probability, what speaks for and against, and the nearest trainings."""
        ranked = self.features.reindex(self.features["contribution"].abs().sort_values(ascending=False).index)
        reasons = "; ".join(f"{r.feature} {r.value:.3g} ({r.contribution:+.1f})" for r in ranked.head(3).itertuples())
        seen = f"{int(self.nearest['trained'].sum())} of the {len(self.nearest)} nearest calibrated trainings trained"
        beyond = f" Outside the calibrated range: {', '.join(self.outside)}." if self.outside else ""
        return (
            f"Trains with probability {self.probability:.2f} (base rate {self.base_rate:.2f}). Most weight, in "
            f"log-odds: {reasons}. {seen}.{beyond}"
        )


def will_it_train(
    model: nn.Module,
    batch: Any,
    *,
    lr: float,
    momentum: float = 0.9,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    using: Calibration | None = None,
) -> Prediction:
    """Predict from one batch at initialisation whether SGD with this learning rate will train the network.

    Costs one forward and backward pass and one forward pass; the model is left as it was. The calibration knows
    residual and plain networks of 8 to 110 layers on small images, SGD with momentum 0.9, constant learning rate and
    batches of 64: what it says of others is a guess from the same physics, and no warm-up, schedule, clipping or other
    optimizer is taken into account.

    Args:
        model: Any classifier; wrappers are looked through.
        batch: One batch (inputs, integer labels) of the size that training uses, or a dict for which the model gives a
            ``.loss``; the first, if there are several.
        lr: Learning rate.
        momentum: Of SGD, from 0 to below 1.
        loss: ``loss(model, batch)``, the mean over samples; by default cross-entropy, or a dict model's own.
        device: Where to run; by default where the model is.
        seed: Of what the model draws.
        using: Another calibration than the package's.

    Returns:
        The prediction.

    Raises:
        ConfigError: If lr or momentum is out of range, nothing is trained, or there is no loss that fits the batch.
        ShapeError: If there are fewer than two samples.
        UnknownNameError: If no layer has a kernel.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> batch = torch.randn(64, 4), torch.randint(0, 3, (64,))
        >>> 0 <= will_it_train(model, batch, lr=0.1).probability <= 1
        True
    """
    known = default_calibration() if using is None else using
    found = initial_features(model, batch, lr=lr, momentum=momentum, loss=loss, device=device, seed=seed)
    return predicted(found, known)


def predicted(features: dict[str, float], known: Calibration) -> Prediction:
    """The prediction for features that were computed before."""
    values = np.array([features[name] for name in FEATURES])
    low, high = known.range()
    beyond = TOLERANCE * (high - low) + 1e-9
    distances = known.distances(values)
    order = np.argsort(distances, kind="stable")[:N_NEAREST]
    return Prediction(
        probability=float(known.probability(values)[0]),
        features=pd.DataFrame(
            {
                "feature": FEATURES,
                "value": values,
                "contribution": known.contributions(values)[0],
                "low": low,
                "high": high,
                "outside": (values < low - beyond) | (values > high + beyond),
            }
        ),
        nearest=pd.DataFrame(
            {
                "configuration": [known.configurations[i] for i in order],
                "trained": [known.trained[i] for i in order],
                "distance": distances[order],
            }
        ),
        base_rate=float(np.mean(known.trained)),
    )
