"""What can be said of inputs, labels and outputs alone, without a look inside the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Inputs:
    """What the network is given, over at most 1,024 samples.

    Attributes:
        n_samples: Samples.
        shape: Shape of one sample.
        mean: Over all values.
        std: Over all values.
        least: Smallest finite value.
        greatest: Largest finite value.
        n_nonfinite: Values that are NaN or infinite.
        n_constant: Features (values of a sample) that are the same in every sample.
        constant_channels: Channels of images, or features of vectors, that are the same in every sample and position.
        range_ratio: Widest over narrowest range, largest less smallest value, of the channels or features that vary.
        n_duplicate: Samples that equal an earlier one.
        n_contradicting: Of these, how many have another label.
    """

    n_samples: int
    shape: tuple[int, ...]
    mean: float
    std: float
    least: float
    greatest: float
    n_nonfinite: int
    n_constant: int
    constant_channels: tuple[int, ...]
    range_ratio: float
    n_duplicate: int
    n_contradicting: int = 0

    @property
    def n_features(self) -> int:
        """Values of one sample."""
        return int(np.prod(self.shape))

    @classmethod
    def of(cls, parts: Sequence[Tensor | None], labels: Sequence[Tensor | None] = ()) -> Inputs | None:
        """From the inputs of each batch; None where they are no numbers of one shape."""
        tensors = [p for p in parts if p is not None and p.is_floating_point() and p.ndim > 1]
        if len(tensors) != len(parts) or len({p.shape[1:] for p in tensors}) != 1:
            return None
        wide = [p.detach().cpu() if p.dtype.itemsize >= 4 else p.detach().cpu().float() for p in tensors]
        values = torch.cat(wide).numpy()
        rows = values.reshape(len(values), -1)
        finite = np.isfinite(rows)
        known = rows[finite]
        channels = values.reshape(*values.shape[:2], -1).transpose(1, 0, 2).reshape(values.shape[1], -1)
        constant = np.all(channels == channels[:, :1], axis=1)
        with np.errstate(invalid="ignore"):
            ranges = np.ptp(channels[~constant], axis=1).astype("float64")
        first, again = _duplicates(rows)
        names = [y for y in labels if y is not None]
        targets = torch.cat([y.cpu() for y in names]).numpy() if names and len(names) == len(parts) else None
        return cls(
            n_samples=len(rows),
            shape=tuple(values.shape[1:]),
            mean=float(known.mean(dtype=np.float64)) if len(known) else float("nan"),
            std=float(known.std(dtype=np.float64)) if len(known) else float("nan"),
            least=float(known.min()) if len(known) else float("nan"),
            greatest=float(known.max()) if len(known) else float("nan"),
            n_nonfinite=int((~finite).sum()),
            n_constant=int(np.all(rows == rows[:1], axis=0).sum()),
            constant_channels=tuple(int(i) for i in np.flatnonzero(constant)),
            range_ratio=float(ranges.max() / ranges.min()) if len(ranges) else float("nan"),
            n_duplicate=len(again),
            n_contradicting=0 if targets is None else int((targets[first] != targets[again]).sum()),
        )


def _duplicates(rows: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For every row that equals an earlier one: the first such row, and its own index."""
    seen: dict[bytes, int] = {}
    keys = (blake2b((row + 0.0).tobytes()).digest() for row in rows)  # a sum with 0 turns −0 into 0
    firsts = np.array([seen.setdefault(key, i) for i, key in enumerate(keys)], dtype=np.intp)
    again = np.flatnonzero(firsts != np.arange(len(rows)))
    return firsts[again], again


@dataclass(frozen=True)
class Labels:
    """Integer labels, over at most 1,024 samples.

    Attributes:
        n_samples: Labels.
        counts: From class to its number of samples, the commonest first.
    """

    n_samples: int
    counts: dict[int, int]

    @property
    def majority_share(self) -> float:
        """Share of the commonest class."""
        return max(self.counts.values()) / self.n_samples

    @property
    def entropy(self) -> float:
        """Loss, in nats, of always predicting the shares of the classes."""
        shares = np.array(list(self.counts.values())) / self.n_samples
        return float(-(shares * np.log(shares)).sum())

    @classmethod
    def of(cls, parts: Sequence[Tensor | None]) -> Labels | None:
        """From the labels of each batch; None where some have none."""
        tensors = [p for p in parts if p is not None]
        if not tensors or len(tensors) != len(parts):
            return None
        values, counts = np.unique(torch.cat([t.cpu() for t in tensors]).numpy(), return_counts=True)
        order = sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1])
        return cls(sum(count for _, count in order), dict(order))


@dataclass(frozen=True)
class Outputs:
    """What the network answers.

    Attributes:
        n_classes: Columns of the scores.
        loss: As the network trains, on its batch; NaN without a loss.
        loss_at_chance: ln(classes), the cross-entropy of equal scores.
        accuracy: As it trains, on that batch; NaN without labels.
        n_predicted: Classes that are predicted for some sample of that batch.
        rms: Root mean square of the scores.
        spread: Share of ‖scores‖_F that differs between samples, each sample's mean score taken off; NaN of one sample
            or one score, whose size is a matter of its unit.
        share_nonfinite: Of the scores.
        off_probability: Largest distance of a sample's sum of scores from 1; infinite where one is negative.
        cross_entropy: Of the scores, taken for logits, and the labels; NaN without labels that fit.
        eval_accuracy: In evaluation mode, over all samples.
        eval_n_predicted: Classes predicted there.
    """

    n_classes: int
    loss: float
    loss_at_chance: float
    accuracy: float
    n_predicted: int
    rms: float
    spread: float
    share_nonfinite: float
    off_probability: float
    cross_entropy: float
    eval_accuracy: float
    eval_n_predicted: int

    @classmethod
    def of(
        cls,
        scores: Tensor | None,
        labels: Tensor | None,
        loss: float,
        eval_scores: Sequence[Tensor | None],
        eval_labels: Sequence[Tensor | None],
    ) -> Outputs | None:
        """From the scores (n, classes) and labels (n,) of the batch, and those of all batches in evaluation mode."""
        known = [s.cpu() for s in eval_scores if s is not None]
        if scores is None or not known:
            return None
        values = scores.cpu().double()
        centred = values - values.mean(1, keepdim=True)
        found, eval_found = values.argmax(1), torch.cat(known).argmax(1)
        targets = [y for y in eval_labels if y is not None]
        eval_targets = torch.cat([y.cpu() for y in targets]) if targets else None
        return cls(
            n_classes=values.shape[1],
            loss=loss,
            loss_at_chance=float(np.log(values.shape[1])),
            accuracy=_accuracy(found, labels),
            n_predicted=len(np.unique(found.numpy())),
            rms=float(torch.linalg.vector_norm(values) / values.numel() ** 0.5),
            spread=_spread(centred),
            share_nonfinite=float(1 - torch.isfinite(values).double().mean()),
            off_probability=float("inf") if (values < 0).any() else float((values.sum(1) - 1).abs().max()),
            cross_entropy=_cross_entropy(values, labels),
            eval_accuracy=_accuracy(eval_found, eval_targets),
            eval_n_predicted=len(np.unique(eval_found.numpy())),
        )


def _spread(centred: Tensor) -> float:
    """Share of the norm of a matrix (n, classes) that differs between its rows."""
    if min(centred.shape) < 2:
        return float("nan")
    total = torch.linalg.vector_norm(centred)
    return float(torch.linalg.vector_norm(centred - centred.mean(0)) / total) if total > 0 else 0.0


def _cross_entropy(values: Tensor, labels: Tensor | None) -> float:
    """Mean cross-entropy of scores taken for logits; NaN where labels are none of theirs."""
    if labels is None or len(labels) != len(values):
        return float("nan")
    targets = labels.cpu().long()
    fits = 0 <= int(targets.min()) <= int(targets.max()) < values.shape[1]
    return float(torch.nn.functional.cross_entropy(values, targets)) if fits else float("nan")


def _accuracy(found: Tensor, labels: Tensor | None) -> float:
    """Share of predictions that are right; NaN where that is not known."""
    if labels is None or len(labels) != len(found):
        return float("nan")
    return float((found == labels.cpu()).double().mean())


def input_of(batch: Any) -> Tensor | None:
    """The tensor that a network is given: the batch, the first of a pair, the first floating-point one of a dict."""
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        floating = [v for v in batch.values() if isinstance(v, Tensor) and v.is_floating_point() and v.ndim > 1]
        return floating[0] if floating else None
    if isinstance(batch, (tuple, list)) and batch and not isinstance(batch, PackedSequence):
        return input_of(batch[0])
    return None


def first_samples(batch: Any, n: int) -> Any:
    """The first n samples of a batch, containers kept; what cannot be cut stays whole."""
    if isinstance(batch, Tensor):
        return batch[:n] if batch.ndim else batch
    if isinstance(batch, PackedSequence):
        return batch
    if isinstance(batch, Mapping):
        return {key: first_samples(value, n) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(first_samples(value, n) for value in batch)
    return batch
