"""Loss and accuracy over batches, summed on the device and read once."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from deepprobe.distributed import Ranks
from deepprobe.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from deepprobe.training.stream import Data

from deepprobe.training.stream import fixed_batches, is_pair

MOST_UNCOUNTED = 2**19
"""Bytes of logits that are kept to be counted together: counting takes as long for 1,000 samples as for a batch."""


class Tally:
    """Running sums of what a classifier said; nothing leaves the device before it is read."""

    def __init__(self) -> None:
        self.n_samples = 0
        self._loss: Tensor | None = None
        self._correct: Tensor | None = None
        self._predicted: Tensor | None = None
        self._labelled: Tensor | None = None
        self._uncounted: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_uncounted = 0

    def add(self, logits: Tensor, labels: Tensor, *, loss: Tensor) -> None:
        """Add a batch.

        Args:
            logits: Shape (n, classes); like the loss, without the graph of its gradient.
            labels: Shape (n,), int64.
            loss: Mean loss of the batch, a scalar.
        """
        self._uncounted.append((logits, labels, loss))
        self._n_uncounted += logits.untyped_storage().nbytes()  # of all that they may be a view of, such as all tokens
        self.n_samples += len(labels)
        if self._n_uncounted > MOST_UNCOUNTED:
            self._count()

    def merge(self, other: Tally) -> None:
        """Add all that another tally was given."""
        other._count()
        self.n_samples += other.n_samples
        self._loss = _sum(self._loss, other._loss)
        self._add_counts(other._correct, other._predicted, other._labelled)

    def over(self, ranks: Ranks) -> Tally:
        """What all ranks were given, on every rank; collective."""
        if ranks.is_alone:
            return self
        merged = Tally()
        for state in ranks.gather(self.state()):
            merged.merge(Tally.of_state(state, device=torch.device("cpu")))
        return Tally.of_state(ranks.broadcast(merged.state()), device=torch.device("cpu"))

    def _count(self) -> None:
        """Count what was kept."""
        if not self._uncounted:
            return
        logits, labels, losses = zip(*self._uncounted, strict=True)
        self._uncounted, self._n_uncounted = [], 0
        for loss, one in zip(losses, labels, strict=True):  # one after the other: the same sum, whenever it is taken
            self._loss = _sum(self._loss, loss.double() * len(one))
        predicted, labelled, n_classes = torch.cat(logits).argmax(dim=1), torch.cat(labels), logits[0].shape[1]
        self._add_counts(
            (predicted == labelled).sum(), _histogram(predicted, n_classes), _histogram(labelled, n_classes)
        )

    def _add_counts(self, correct: Tensor | None, predicted: Tensor | None, labelled: Tensor | None) -> None:
        """Add counts, if there are any."""
        self._correct = _sum(self._correct, correct)
        self._predicted = _sum(self._predicted, predicted)
        self._labelled = _sum(self._labelled, labelled)

    def read(self) -> dict[str, float]:
        """Mean loss, accuracy, what a constant answer would reach, and how constant the answers were; empty of nothing.

        ``majority_share`` is the share of the most frequent label, the accuracy of the best constant predictor;
        ``top_prediction_share`` that of the class predicted most, 1 for a constant predictor.
        """
        self._count()
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
        """The sums as plain values on the CPU, for a checkpoint within an epoch."""
        self._count()
        sums = {"loss": self._loss, "correct": self._correct, "predicted": self._predicted, "labelled": self._labelled}
        return {"n_samples": self.n_samples, **{k: None if v is None else v.cpu() for k, v in sums.items()}}

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


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of what is there of two."""
    return b if a is None else a if b is None else a + b


def _histogram(values: Tensor, n_classes: int) -> Tensor:
    """How often each class occurs; labels below 0, which the loss leaves out, are not counted."""
    counts = values.new_zeros(n_classes + 1)
    return counts.scatter_add_(0, values.clamp(min=-1) + 1, torch.ones_like(values))[1:]


def evaluate(
    model: nn.Module,
    data: Data,
    *,
    device: torch.device | None = None,
    batch_size: int | None = None,
    precision: str = "fp32",
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """Loss and accuracy of a classifier on held-out data, in evaluation mode.

    Args:
        model: Maps a batch to logits of shape (n, classes); its modes are as before afterwards.
        data: Two tensors (inputs, labels), or an iterable of such batches.
        device: Where to; by default where the model's first parameter is.
        batch_size: Samples a forward pass, where the data are tensors; by default as many as hold a million numbers,
            between 256 and 1,024.
        precision: "fp32", or "bf16" for autocast.
        ranks: Processes that share the work, if there are several: each takes its part of every batch of two tensors,
            or what its own iterable gives it. All get the same answer.

    Returns:
        ``loss`` (mean cross-entropy, no label smoothing), ``accuracy``, ``n_predicted_classes``,
        ``top_prediction_share`` and ``majority_share``; empty if there are no samples.

    Raises:
        ShapeError: If a batch is no pair (inputs, labels), or the model's output is not (n, classes).
    """
    if device is None:
        parameter = next(model.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
    ranks = Ranks() if ranks is None else ranks
    if batch_size is None:
        batch_size = min(1024, max(256, 2**20 // max(1, data[0][:1].numel()))) if is_pair(data) else 256
    tally = Tally()
    with evaluating(model), torch.no_grad(), arithmetic(device, precision):
        for x, y in fixed_batches(data, device=device, batch_size=batch_size):
            part = ranks.share(len(x)) if is_pair(data) else slice(None)
            if len(x[part]):
                logits = model(x[part])
                tally.add(logits, y[part], loss=classification_loss(logits, y[part]))
    return tally.over(ranks).read()


def arithmetic(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context of the arithmetic of a forward pass: as the tensors have it, or bfloat16 where autocast allows it."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


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
