"""Training and test split of a set that has no official one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def split_by_class(labels: NDArray[np.int64], n_test: int, *, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of a training and a test split with the class shares of the whole.

    Each class gives its share of the n_test images; what rounding leaves goes to the largest remainders, on a tie to
    the lower label. Which images of a class are drawn depends on the seed alone.

    Args:
        labels: Class of each image, shape (n,).
        n_test: Size of the test split, 0 … n.
        seed: Seed of the draw.

    Returns:
        Training and test positions, both ascending, shapes (n − n_test,) and (n_test,).
    """
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    quota, remainder = np.divmod(counts * n_test, max(len(labels), 1))
    quota[np.argsort(-remainder, kind="stable")[: n_test - int(quota.sum())]] += 1
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:size] for label, size in zip(classes, quota, strict=True)
    ]
    test = np.sort(np.concatenate(drawn)) if drawn else np.empty(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), test), test
