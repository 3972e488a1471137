"""The error barrier between a ticket and its sibling, measured when the sibling is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING
from warnings import warn

import torch

from deepprobe.pruning.connectivity import error_barrier, linear_path
from deepprobe.records.step import At, Length
from deepprobe.training.stream import is_pair

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from deepprobe.training.context import Context
    from deepprobe.training.stream import Data

TRAINING_SAMPLES = 10_000
"""First samples of the training data on which the path is measured, beside the test data."""


class BarrierAtTheEnd:
    """Callback that records ``error_barrier`` and the errors on the line to another network, once training has ended.

    Args:
        epochs: When that is.
        other: State dict of the other network.
        train: Training data, of which the first samples are taken where they are two tensors.
        test: Test data, if there are any.
    """

    def __init__(self, epochs: int, other: Mapping[str, Tensor], *, train: Data, test: Data | None) -> None:
        self.schedule, self.other = At((Length(epochs),)), other
        self.splits = {"test": test} if test is not None else {}
        if is_pair(train):
            self.splits["train"] = (train[0][:TRAINING_SAMPLES], train[1][:TRAINING_SAMPLES])

    def __call__(self, context: Context) -> None:
        """Measure and record, on rank 0."""
        if not context.ranks.is_main:
            return
        own = context.model.state_dict()
        if all(torch.equal(tensor, self.other[name].to(tensor)) for name, tensor in own.items()):
            warn(
                f"{context.run.name} has the very weights of its ticket, so its error barrier says nothing: the data "
                "came in the same order; give two tensors, or a DataLoader with shuffle=True",
                stacklevel=2,
            )
        for split, data in self.splits.items():
            path = linear_path(context.model, self.other, own, data, batch_size=1024)
            errors = {f"error_at_{alpha:.1f}": e for alpha, e in zip(path["alpha"], path["error"], strict=True)}
            context.log(split, error_barrier=error_barrier(path), **errors)
