from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from deepprobe.data import ImageSet, as_batches, batches
from deepprobe.errors import ConfigError, ShapeError

X, Y = torch.arange(14.0).reshape(7, 2), torch.arange(7)


def joined(pairs: object) -> None:
    xs, ys = zip(*pairs, strict=True)
    assert [len(x) for x in xs] == [3, 3, 1]
    assert torch.equal(torch.cat(xs), X)
    assert torch.equal(torch.cat(ys), Y)


@pytest.mark.parametrize("source", [(X, Y), TensorDataset(X, Y)], ids=["pair", "dataset"])
def test_pairs(source: object) -> None:
    joined(as_batches(source, batch_size=3))


def test_batches() -> None:
    joined(batches(X, Y, 3))


def test_image_set() -> None:
    toy = ImageSet("toy", "test", np.full((7, 2, 2, 1), 255, np.uint8), np.arange(7), tuple("abcdefg"), (0.5,), (0.25,))
    xs, ys = zip(*as_batches(toy, batch_size=4), strict=True)
    assert [x.shape for x in xs] == [(4, 1, 2, 2), (3, 1, 2, 2)]
    assert torch.cat(xs).unique().tolist() == [2.0]
    assert torch.equal(torch.cat(ys), Y)


def test_bare_tensor() -> None:
    assert [len(x) for x in as_batches(X, batch_size=5)] == [5, 2]
    assert list(as_batches(X[:0])) == []


def test_iterables_pass_as_they_are() -> None:
    assert next(iter(as_batches([X, X]))) is X
    assert [len(x) for x, _ in as_batches(DataLoader(TensorDataset(X, Y), batch_size=2))] == [2, 2, 2, 1]
    assert list(as_batches(i for i in range(3))) == [0, 1, 2]


def test_refusals() -> None:
    with pytest.raises(ShapeError, match=r"^7 images but 6 labels; give one label an image$"):
        as_batches((X, Y[:6]))
    with pytest.raises(ConfigError, match=r"^batch_size=0 must be at least 1$"):
        as_batches(X, batch_size=0)
    with pytest.raises(ShapeError, match="a single number has no batches"):
        as_batches(torch.tensor(1.0))
    for nothing in (3, "abc", None):
        with pytest.raises(ConfigError, match=f"^no batches in a {type(nothing).__name__}; give an ImageSet"):
            as_batches(nothing)
