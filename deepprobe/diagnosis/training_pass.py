"""One forward and one backward pass as the network trains, and all that can be seen in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepprobe.diagnosis.kernel_facts import kernel_table
from deepprobe.diagnosis.structure import Structure, structure
from deepprobe.diagnosis.watching import watching
from deepprobe.errors import DeepprobeError, ShapeError
from deepprobe.hooks.attach import tensors_in
from deepprobe.hooks.passes import n_samples, run

if TYPE_CHECKING:
    import pandas as pd

    from deepprobe.probes.gradients import Loss


@dataclass(frozen=True, eq=False)
class TrainingPass:
    """What one pass shows.

    Attributes:
        layers: One row a layer call (``Watch.tables``).
        norms: One row a call of a batch normalisation.
        kernels: One row a kernel (``kernel_table``).
        scores: What the network gave, shape (n, classes); None where it gave something else.
        loss: NaN without one.
        structure: How the network is built.
    """

    layers: pd.DataFrame
    norms: pd.DataFrame
    kernels: pd.DataFrame
    scores: Tensor | None
    loss: float
    structure: Structure


def training_pass(
    network: nn.Module, batch: Any, loss: Loss | None, *, roles: Mapping[str, str], lr: float | None
) -> TrainingPass:
    """Run a network, inside ``differentiating``, forward on a batch and, where there is a loss, backward.

    Args:
        network: Unwrapped.
        batch: On the network's device.
        loss: From network and batch to the mean loss; None for a forward pass only.
        roles: Of the modules to watch, by name.
        lr: Learning rate for ``update_ratio``.

    Raises:
        ShapeError: If the network does not run on the batch as it trains.
        ConfigError: If the loss does not fit the batch.
    """
    outputs: list[Any] = []
    handle = network.register_forward_hook(lambda module, given, output: outputs.append(output))
    try:
        with watching(network, roles, n_samples(batch)) as watch:
            end = _forward(network, batch, loss)
            gradients = {} if loss is None else _backward(end, network)
    finally:
        handle.remove()
    layers, norms = watch.tables()
    return TrainingPass(
        layers=layers,
        norms=norms,
        kernels=kernel_table(network, gradients, roles, layers, lr=lr),
        scores=scores_of(outputs[-1]),
        loss=float("nan") if loss is None else float(end.detach()),
        structure=structure(network, next((tensor for _, tensor in tensors_in(end)), None), gradients),
    )


def _forward(network: nn.Module, batch: Any, loss: Loss | None) -> Any:
    """The loss, or what the network gives."""
    try:
        return run(network, batch) if loss is None else loss(network, batch)
    except DeepprobeError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:  # torch's words for what does not fit
        raise ShapeError(f"the network does not run as it trains on this batch: {error}") from error


def _backward(end: Any, network: nn.Module) -> dict[int, Tensor | None]:
    """Gradient of each trainable parameter by its id, None where the loss does not reach it."""
    if not isinstance(end, Tensor) or end.numel() != 1:
        shape = tuple(end.shape) if isinstance(end, Tensor) else type(end).__name__
        raise ShapeError(f"loss(model, batch) gave {shape}; expected one number, the mean over the samples")
    trained = [p for p in network.parameters() if p.requires_grad]
    if not trained or not end.requires_grad:
        return {id(p): None for p in trained}
    found = torch.autograd.grad(end.sum(), trained, allow_unused=True)
    return {id(p): gradient for p, gradient in zip(trained, found, strict=True)}


def scores_of(output: Any) -> Tensor | None:
    """The matrix of scores that a network gave, shape (n, classes), detached; None where it gave something else."""
    found = scores_in(output)
    return None if found is None else found.detach()


def scores_in(output: Any) -> Tensor | None:
    """As ``scores_of``, with its graph."""
    output = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    return output if isinstance(output, Tensor) and output.ndim == 2 and output.is_floating_point() else None
