"""Will it train? A probability for one network, one batch and one learning rate, with its reasons."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepprobe.diagnosis.prediction.calibration import Calibration, default_calibration
from deepprobe.diagnosis.prediction.features import FEATURES, measured
from deepprobe.diagnosis.prediction.limits import beyond

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
        unlike: In words, what of network, batch and momentum is unlike all of these trainings, such as
            ``"depth 3 (calibrated 8 to 110)"``.
    """

    probability: float
    features: pd.DataFrame
    nearest: pd.DataFrame
    base_rate: float
    unlike: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether training is more probable than not."""
        return self.probability >= 0.5

    @property
    def outside(self) -> tuple[str, ...]:
        """What is unlike the calibration, then features beyond its range; if there are any, do not rely on it."""
        return (*self.unlike, *self.features.loc[self.features["outside"], "feature"])

    def __str__(self) -> str:
        """In words: whether to rely on it, the probability, what speaks for and against, the nearest trainings."""
        ranked = self.features.reindex(self.features["contribution"].abs().sort_values(ascending=False).index)
        reasons = "; ".join(f"{r.feature} {r.value:.3g} ({r.contribution:+.1f})" for r in ranked.head(3).itertuples())
        seen = f"{int(self.nearest['trained'].sum())} of the {len(self.nearest)} nearest calibrated trainings trained"
        warning = f"Outside what it was calibrated on: {', '.join(self.outside)}; do not rely on it. "
        return (
            f"{warning if self.outside else ''}Trains with probability {self.probability:.2f} (base rate "
            f"{self.base_rate:.2f}). Most weight, in log-odds: {reasons}. {seen}."
        )

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<p>{html.escape(str(self))}</p>"


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
    convolutional residual and plain networks of 8 to 110 layers, ten classes of small images, SGD with momentum 0.9,
    constant learning rate and batches of 64: what it says of others is not to be relied on, and ``outside`` names what
    is other. No warm-up, schedule, clipping or other optimizer is taken into account; regression is refused.

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
        ConfigError: If lr or momentum is out of range, the batch has no integer labels or such that the model has no
            score for, nothing is trained, or there is no loss that fits the batch.
        ShapeError: If there are fewer than two samples.
        UnknownNameError: If no layer has a kernel.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> batch = torch.randn(64, 4), torch.randint(0, 3, (64,))
        >>> will_it_train(model, batch, lr=0.1).outside[:2]
        ('depth 2 (calibrated 8 to 110)', 'no convolutions')
    """
    known = default_calibration() if using is None else using
    found, setting = measured(model, batch, lr=lr, momentum=momentum, loss=loss, device=device, seed=seed)
    return replace(predicted(found, known), unlike=beyond(setting, known.about.get("limits", {})))


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
