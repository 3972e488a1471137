"""Gradients of the mean loss over all samples, for criteria; the model is left as found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepprobe.hooks.passes import device_of, differentiating, moved, n_samples
from deepprobe.probes.gradients import Loss, default_loss
from deepprobe.pruning.criteria.subject import Subject


@contextmanager
def scoring(subject: Subject, parameters: Sequence[nn.Parameter]) -> Iterator[nn.Module]:
    """The model as it trains, in full precision, with gradients for these parameters even where they are frozen.

    Batch normalisation uses the statistics of each batch: those that run say nothing of an untrained network.
    """
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with differentiating(subject.model, seed=subject.seed) as network:
            yield network
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def shares(batches: Sequence[Any], model: nn.Module) -> Iterator[tuple[Any, float]]:
    """Batches where the model is, and the share of all samples that each holds."""
    sizes = [n_samples(batch) for batch in batches]
    for batch, size in zip(batches, sizes, strict=True):
        yield moved(batch, device_of(model)), size / sum(sizes)


def mean_gradients(
    network: nn.Module, parameters: Sequence[nn.Parameter], batches: Sequence[Any], *, loss: Loss = default_loss
) -> list[Tensor]:
    """Gradient of the mean loss over all samples; zero where the loss does not reach a parameter.

    Args:
        network: As ``scoring`` gives it.
        parameters: Those of which it is taken.
        batches: At least one.
        loss: ``loss(model, batch)``, the mean over the samples of a batch.

    Returns:
        A tensor for each parameter, of its shape.

    Raises:
        ConfigError: If there is no loss that fits the batches.
    """
    mean = [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]
    for batch, share in shares(batches, network):
        found = torch.autograd.grad(loss(network, batch), parameters, allow_unused=True, materialize_grads=True)
        torch._foreach_add_(mean, list(found), alpha=share)
    return mean
