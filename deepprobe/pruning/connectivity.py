"""Linear mode connectivity: loss and error on the straight line between two networks.

Frankle, Dziugaite, Roy & Carbin (2020), *Linear Mode Connectivity and the Lottery Ticket Hypothesis*, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import nn

from deepprobe.errors import ConfigError
from deepprobe.hooks.select import unwrapped
from deepprobe.seeding import preserved_random_states
from deepprobe.training.checkpoint import put_weights
from deepprobe.training.evaluation import evaluate, evaluating
from deepprobe.training.stream import fixed_batches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from deepprobe.training.stream import Data

MOST_ALIKE = 1e-6
"""Ends of a path are looked for this near to 0 and 1."""


def linear_path(
    model: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    data: Data,
    *,
    n_points: int = 11,
    statistics_from: Data | None = None,
    batch_size: int = 256,
    precision: str = "fp32",
) -> pd.DataFrame:
    """Loss and error of the networks (1 − α) · start + α · end, for α from 0 to 1.

    Weights that are zero at both ends, as those that the masks of one ticket removed, are zero on the whole path. The
    model and all random states are left as they were.

    Args:
        model: Computes; on the device where it is. Wrappers are looked through.
        start: State dict of one end.
        end: State dict of the other. Floating-point entries are interpolated; the others, such as the number of
            batches that a batch normalisation has seen, are those of the nearer end.
        data: Two tensors (inputs, labels), or batches of such that are the same each time they are gone through.
        n_points: Points, evenly spaced, both ends among them: 30 in the paper.
        statistics_from: Running statistics of batch normalisation are interpolated like weights. With data given here
            they are instead estimated anew at each point, as plain averages over these batches.
        batch_size: Samples a forward pass, where data are two tensors.
        precision: "fp32", or "bf16" for autocast.

    Returns:
        A row a point: alpha, loss (mean cross-entropy), error (share of samples classified wrongly).

    Raises:
        ConfigError: If there are fewer than three points, or data that are empty or can be gone through once only.
        CheckpointError: If a state's names, shapes or kinds of number are not those of the model.
        ShapeError: If a batch is no pair (inputs, labels), or the model's output is not (n, classes).
    """
    if not isinstance(n_points, int) or n_points < 3:
        raise ConfigError(f"n_points={n_points!r}: a path has 3 points or more, its two ends and one between")
    for given in (data, statistics_from):
        if isinstance(given, Iterator):
            raise ConfigError(
                f"the data are a {type(given).__name__}, which can be read once only, and every point of the path "
                "needs them; give a pair of tensors, a DataLoader, or a list of batches"
            )
    model, alphas = unwrapped(model), np.linspace(0.0, 1.0, n_points)
    start, end = _copied(start), _copied(end)  # either may be the model's own, which the path writes to
    rows = []
    with _left_as_found(model), preserved_random_states():
        for state, which in ((start, "the start"), (end, "the end")):
            put_weights(model, state, origin=f"{which} of the path")
        for alpha in alphas:
            put_weights(model, _between(start, end, float(alpha)), origin="a point of the path")
            if statistics_from is not None:
                _estimate_statistics(model, statistics_from, batch_size=batch_size)
            found = evaluate(model, data, batch_size=batch_size, precision=precision)
            if not found:
                raise ConfigError("there are no samples to evaluate the path on")
            rows.append((alpha, found["loss"], 1.0 - found["accuracy"]))
    return pd.DataFrame(rows, columns=["alpha", "loss", "error"])


def error_barrier(path: pd.DataFrame) -> float:
    """Height of the error barrier: the highest error on a path, less the mean of the errors at its ends.

    Frankle et al. (2020), section 2, who call it *linear interpolation instability* where the two networks are copies
    of one that were trained with different data orders, and the network stable below 0.02.

    Args:
        path: What ``linear_path`` returns; rows in any order.

    Returns:
        The barrier as a share of samples, 0 or more.

    Raises:
        ConfigError: If the path lacks one of its ends.

    Example:
        >>> round(error_barrier(pd.DataFrame({"alpha": [0.0, 0.5, 1.0], "error": [0.02, 0.34, 0.04]})), 4)
        0.31
    """
    ends = [path.loc[(path["alpha"] - alpha).abs() < MOST_ALIKE, "error"] for alpha in (0.0, 1.0)]
    if any(found.empty for found in ends):
        raise ConfigError(f"the path has no error at one of its ends; alpha is {path['alpha'].tolist()}")
    return float(path["error"].max() - (ends[0].iloc[0] + ends[1].iloc[0]) / 2)


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of its own tensors."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _between(start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The state at alpha; torch's lerp gives both ends, and what they share, to the bit."""
    return {
        name: torch.lerp(one, end[name].to(one), alpha)
        if one.is_floating_point() or one.is_complex()
        else (one if alpha < 0.5 else end[name])
        for name, one in start.items()
    }


@contextmanager
def _left_as_found(model: nn.Module) -> Iterator[None]:
    """Put back every parameter and buffer, those that no state dict has too, into the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


@torch.no_grad()
def _estimate_statistics(model: nn.Module, data: Data, *, batch_size: int) -> None:
    """Average the statistics of batch normalisation over batches, all else in evaluation mode."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    with evaluating(model):
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # a plain average over batches
                layer.train()
            for x, _ in fixed_batches(data, device=device, batch_size=batch_size) if layers else ():
                model(x)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
