"""Gradient × weight: what the loss would change by, to first order, without the weight.

Mozer & Smolensky (1989), "Skeletonization"; LeCun et al. (1990) give the Taylor series; as "gradient magnitude" in
Blalock et al. (2020), "What is the state of neural network pruning?".
"""

from __future__ import annotations

from torch import Tensor

from deepprobe.pruning.criteria.gradients import mean_gradients, scoring
from deepprobe.pruning.criteria.subject import Subject


def gradient_weight(subject: Subject) -> dict[str, Tensor]:
    """|w · ∂L/∂w| for the mean loss L over all batches, in the unit of the loss.

    Raises:
        ConfigError: If the subject has no batches, or there is no loss that fits them.
    """
    return sensitivities(subject, "gradient-weight")


def sensitivities(subject: Subject, criterion: str) -> dict[str, Tensor]:
    """|w · ∂L/∂w|; errors name the criterion."""
    batches, parameters = subject.samples(criterion), subject.parameters()
    with scoring(subject, list(parameters.values())) as network:
        gradients = mean_gradients(network, list(parameters.values()), batches)
    return {
        name: (parameter.detach() * gradient).abs_()
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }
