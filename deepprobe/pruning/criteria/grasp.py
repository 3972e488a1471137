"""GraSP: keep the weights without which the gradient would flow less.

Wang, Zhang & Grosse (2020), "Picking winning tickets before training by preserving gradient flow". Without a
weight w, ‖g‖² changes by about 2 S with S = −w · (H g), where g is the gradient and H the Hessian of the loss over the
prunable weights. Those with the highest S go first: without them the gradient grows. So the score is −S = w · (H g),
negative where a weight is in the way.

The logits are divided by a temperature, 200 in the paper, which makes the softmax of an untrained network flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepprobe.errors import ConfigError
from deepprobe.hooks.passes import run
from deepprobe.probes.gradients import Loss
from deepprobe.pruning.criteria.gradients import mean_gradients, scoring, shares
from deepprobe.pruning.criteria.subject import Subject

TEMPERATURE = 200.0


def grasp(subject: Subject, *, temperature: float = TEMPERATURE) -> dict[str, Tensor]:
    """W · (H g) for the mean cross-entropy over all batches.

    Args:
        subject: With batches of (input, integer target).
        temperature: What logits are divided by; ``functools.partial(grasp, temperature=1.0)`` is a criterion too.

    Returns:
        A score for each weight, of its shape.

    Raises:
        ConfigError: If the subject has no batches, or they are no such pairs.
    """
    batches, parameters = subject.samples("grasp"), subject.parameters()
    weights, loss = list(parameters.values()), _tempered(temperature)
    with scoring(subject, weights) as network:
        gradient = mean_gradients(network, weights, batches, loss=loss)
        products = _hessian_product(network, weights, batches, gradient, loss)
    return {
        name: parameter.detach() * product
        for (name, parameter), product in zip(parameters.items(), products, strict=True)
    }


def _hessian_product(
    network: nn.Module, weights: list[nn.Parameter], batches: Sequence[Any], vector: list[Tensor], loss: Loss
) -> list[Tensor]:
    """H v, as the derivative of ⟨∂L/∂w, v⟩, batch by batch."""
    product = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
    for batch, share in shares(batches, network):
        slope = torch.autograd.grad(
            loss(network, batch), weights, create_graph=True, allow_unused=True, materialize_grads=True
        )
        along = torch.stack([(g * v).sum() for g, v in zip(slope, vector, strict=True)]).sum()
        found = torch.autograd.grad(along, weights, allow_unused=True, materialize_grads=True)
        torch._foreach_add_(product, list(found), alpha=share)
    return product


def _tempered(temperature: float) -> Loss:
    """Mean cross-entropy of logits divided by a temperature."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        if not (isinstance(batch, tuple) and len(batch) == 2 and isinstance(batch[1], Tensor)):
            raise ConfigError(
                f"the criterion 'grasp' takes batches (inputs, integer targets), not {type(batch).__name__}"
            )
        logits = run(model, batch)
        if not isinstance(logits, Tensor):
            raise ConfigError(
                f"the criterion 'grasp' needs a tensor of logits; the model gives {type(logits).__name__}"
            )
        return nn.functional.cross_entropy(logits / temperature, batch[1].long())

    return loss
