"""What a person passes as batches."""

from __future__ import annotations

import pytest
import torch

from deepprobe.errors import ShapeError
from deepprobe.hooks.passes import as_batches

X = torch.randn(6, 3)


@pytest.mark.parametrize(
    "y",
    [torch.zeros(6, dtype=torch.int64), torch.zeros(6), torch.zeros(6, 1), torch.zeros(6, 4), torch.zeros(6, 3).long()],
    ids=["labels", "numbers", "columns", "one-hot", "dense labels"],
)
def test_a_tuple_of_two_tensors_is_one_pair(y: torch.Tensor) -> None:
    assert as_batches((X, y)) == [(X, y)]


def test_a_tuple_of_two_alike_is_two_batches() -> None:
    halves = X.split(3)
    assert as_batches(halves) is halves
    uneven = X.split(4)
    assert as_batches(uneven) is uneven


def test_a_pair_of_two_lengths_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"one batch, \(input, target\); these hold 6 and 5 samples"):
        as_batches((X, torch.zeros(5, dtype=torch.int64)))
