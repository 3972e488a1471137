"""Loss and accuracy over batches, summed on the device and read once."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from deepprobe.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from deepprobe.training.stream import Data

from deepprobe.training.stream import fixed_batches


class Tally:
    """Running sums of what a classifier said; nothing leaves the device before ``read``."""

    def __init__(self) -> None:
        self.n_samples = 0
        self._loss: Tensor | None = None
        self._correct: Tensor | None = None
        self._predicted: Tensor | None = None
        self._labelled: Tensor | None = None

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor, *, loss: Tensor) -> None:
        """Add a batch.

        Args:
            logits: Shape (n, classes).
            labels: Shape (n,), int64.
            loss: Mean loss of the batch, a scalar.
        """
        predicted = logits.argmax(dim=1)
        classes = torch.arange(logits.shape[1], device=logits.device)
        counts = (predicted[:, None] == classes).sum(dim=0)
        labelled = (labels[:, None] == classes).sum(dim=0)
        correct = (predicted == labels).sum()
        total = loss.detach().double() * len(labels)
        self.n_samples += len(labels)
        self._loss = total if self._loss is None else self._loss + total
        self._correct = correct if self._correct is None else self._correct + correct
        self._predicted = counts if self._predicted is None else self._predicted + counts
        self._labelled = labelled if self._labelled is None else self._labelled + labelled

    def read(self) -> dict[str, float]:
        """Mean loss, accuracy, what a constant answer would reach, and how constant the answers were; empty of nothing.

        ``majority_share`` is the share of the most frequent label, the accuracy of the best constant predictor;
        ``top_prediction_share`` that of the class predicted most, 1 for a constant predictor.
        """
        if self._loss is None or self._correct is None or self._predicted is None or self._labelled is None:
            return {}
        return {
            "loss": self._loss.item() / self.n_samples,
            "accuracy": self._correct.item() / self.n_samples,
            "n_predicted_classes": float((self._predicted > 0).sum().item()),
            "top_prediction_share": self._predicted.max().item() / self.n_samples,
            "majority_share": self._labelled.max().item() / self.n_samples,
        }

    def state(self) -> dict[str, Tensor | int | None]:
        """The sums as plain values, for a checkpoint within an epoch."""
        sums = {"loss": self._loss, "correct": self._correct, "predicted": self._predicted, "labelled": self._labelled}
        return {"n_samples": self.n_samples, **sums}

    @classmethod
    def of_state(cls, state: dict[str, Tensor | int | None], *, device: torch.device) -> Tally:
        """The tally that ``state`` was taken of."""
        tally = cls()
        n_samples = state["n_samples"]
        tally.n_samples = int(n_samples) if n_samples is not None else 0
        for name in ("loss", "correct", "predicted", "labelled"):
            value = state[name]
            setattr(tally, f"_{name}", value.to(device) if isinstance(value, torch.Tensor) else None)
        return tally


def evaluate(
    model: nn.Module, data: Data, *, device: torch.device | None = None, batch_size: int = 256
) -> dict[str, float]:
    """Loss and accuracy of a classifier on held-out data, in evaluation mode.

    Args:
        model: Maps a batch to logits of shape (n, classes); its modes are as before afterwards.
        data: Two tensors (inputs, labels), or an iterable of such batches.
        device: Where to; by default where the model's first parameter is.
        batch_size: Samples a forward pass, where the data are tensors.

    Returns:
        ``loss`` (mean cross-entropy, no label smoothing), ``accuracy``, ``n_predicted_classes``,
        ``top_prediction_share`` and ``majority_share``; empty if there are no samples.

    Raises:
        ShapeError: If a batch is no pair (inputs, labels), or the model's output is not (n, classes).
    """
    if device is None:
        parameter = next(model.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
    tally = Tally()
    with evaluating(model), torch.no_grad():
        for x, y in fixed_batches(data, device=device, batch_size=batch_size):
            if len(x):
                logits = model(x)
                tally.add(logits, y, loss=classification_loss(logits, y))
    return tally.read()


def classification_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy, a scalar in float32 or wider; ShapeError if logits and labels do not fit."""
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(labels):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ShapeError(f"the model must return logits of shape ({len(labels)}, classes), and returned {found}")
    try:
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(wide, labels, label_smoothing=label_smoothing)
    except IndexError as error:
        raise ShapeError(f"labels must lie in 0 … {logits.shape[1] - 1}, the model's classes: {error}") from error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each module's own mode restored after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
