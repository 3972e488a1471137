"""A batch as captum takes it: tensors to attribute along, tensors that only come with them, and what is explained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.labels import labels_of
from deepprobe.hooks.passes import n_samples, run

Target: TypeAlias = int | Literal["predicted"] | None
"""The class whose score is explained: one for all samples, each sample's predicted one, or its label."""


class Scores:
    """The model as captum calls it: from positional tensors to its scores.

    Args:
        model: The network.
        batch: A batch as the person passes it, which says what the tensors are called.
    """

    def __init__(self, model: nn.Module, batch: Any) -> None:
        self._model = model
        self._batch = batch if isinstance(batch, Mapping) else None
        self.keys = None if self._batch is None else _tensor_keys(self._batch)

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Scores of shape (n, classes), or (n,) where the model gives one number a sample.

        Raises:
            ShapeError: If the model gives anything else.
        """
        if self.keys is None or self._batch is None:
            return scores_of(run(self._model, tensors[0]))
        return scores_of(run(self._model, {**self._batch, **dict(zip(self.keys, tensors, strict=True))}))

    def tensors(self, batch: Any) -> tuple[Tensor, ...]:
        """The tensors of a batch that are positional here, floating-point ones first.

        Raises:
            ShapeError: If the input of a pair is no tensor with a row a sample.
        """
        if self.keys is not None:
            return tuple(batch[key] for key in self.keys)
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        if not isinstance(first, Tensor) or not first.ndim:
            raise ShapeError(f"the input of a batch is {type(first).__name__}, not a tensor with a row a sample")
        return (first,)


def scores_of(output: object) -> Tensor:
    """The scores in what a model gives: a tensor, or the ``logits`` of a mapping or dataclass.

    Raises:
        ShapeError: If there are none, or they are not one row a sample.
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim not in {1, 2}:
        shape = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(output).__name__
        raise ShapeError(
            f"the model gives {shape}; what is explained is one score a sample: a tensor (n, classes) or (n,), or an "
            "output with such logits; wrap the model in one that gives that"
        )
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def _tensor_keys(batch: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tensors of a dict batch, one row a sample, floating-point ones first."""
    n = n_samples(batch)
    found = [key for key, value in batch.items() if isinstance(value, Tensor) and value.ndim and len(value) == n]
    return tuple(sorted(found, key=lambda key: not batch[key].is_floating_point()))


@dataclass(frozen=True, eq=False)
class Samples:
    """Some samples of a batch.

    Attributes:
        inputs: Tensors that attribution paths run along, each (n, …): the floating-point ones of the batch.
        others: Tensors that come with them, each (n, …), not floating-point.
        target: Class whose score is explained, shape (n,), int64; None where the model gives one number a sample.
        scores: That score, shape (n,), float64.
    """

    inputs: tuple[Tensor, ...]
    others: tuple[Tensor, ...]
    target: Tensor | None
    scores: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def given(self) -> tuple[Tensor, ...]:
        """What captum is told are the inputs: the floating-point tensors, or where there is none all."""
        return self.inputs or self.others

    @property
    def beside(self) -> tuple[Tensor, ...]:
        """What captum is told comes with them."""
        return self.others if self.inputs else ()

    def parts(self, size: int) -> Iterator[Samples]:
        """These in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            piece = slice(start, start + size)
            yield Samples(
                tuple(t[piece] for t in self.inputs),
                tuple(t[piece] for t in self.others),
                None if self.target is None else self.target[piece],
                self.scores[piece],
            )


def samples_of(batch: Any, scores: Scores, output: Tensor, *, target: Target) -> Samples:
    """A batch, on the device of the model, as captum takes it.

    Args:
        batch: Tensor, (input, target) pair, or dict.
        scores: The model as captum calls it.
        output: The scores of this batch.
        target: What is explained.

    Raises:
        ConfigError: If ``target`` is none of what it may be, no class of the model, or missing from the batch.
        ShapeError: If the input is not one tensor with a row a sample.
    """
    tensors = scores.tensors(batch)
    chosen = _chosen(target, batch, output)
    picked = output if chosen is None else output.gather(1, chosen[:, None])[:, 0]
    inputs = inputs_of(batch, scores)
    return Samples(inputs, tensors[len(inputs) :], chosen, picked.detach().double())


def inputs_of(batch: Any, scores: Scores) -> tuple[Tensor, ...]:
    """The floating-point tensors of a batch that the model is given; ShapeError if its input is no tensor."""
    return tuple(t for t in scores.tensors(batch) if t.is_floating_point())


def _chosen(target: Target, batch: Any, output: Tensor) -> Tensor | None:
    """The class of each sample."""
    if output.ndim == 1:
        return None
    n, n_classes = output.shape
    if target == "predicted":
        return output.argmax(dim=1)
    if isinstance(target, int) and not isinstance(target, bool):
        if not 0 <= target < n_classes:
            raise ConfigError(f"target={target} is no class of this model, which gives {n_classes} scores a sample")
        return torch.full((n,), target, device=output.device)
    if target is not None:
        raise ConfigError(f"target={target!r} is neither a class, 'predicted', nor None for the labels of the batches")
    labels = true_classes(batch, n)
    if not bool(((labels >= 0) & (labels < n_classes)).all()):
        raise ConfigError(
            f"the batches have labels from {int(labels.min())} to {int(labels.max())}, but the model gives "
            f"{n_classes} scores a sample; pass target='predicted' or a class"
        )
    return labels.to(output.device)


def true_classes(batch: Any, n: int) -> Tensor:
    """The true classes of a pair or dict batch, shape (n,), int64.

    Raises:
        ConfigError: If it has none.
    """
    found = labels_of(batch)
    if found is None or len(found) != n:
        raise ConfigError(
            "the batches hold no labels, one integer a sample, as (input, labels) or {'labels': …}; "
            "pass target='predicted' or a class"
        )
    return found.long()
