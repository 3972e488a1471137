"""The digits that scikit-learn carries: 1,797 real handwritten 8×8 images, no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepprobe.data.catalogue import DIGITS
from deepprobe.data.imageset import ImageSet
from deepprobe.data.partition import split_by_class

if TYPE_CHECKING:
    from typing import Literal


def load_digits(split: Literal["train", "test"], *, seed: int = 0) -> ImageSet:
    """One split of the digits: 1,437 training or 360 test images, class shares kept, in scikit-learn's order.

    The source has 17 grey levels, 0 … 16; they become uint8 as round(level · 255 / 16), which can be undone exactly.
    Mean and std are those of this training split. E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten
    Digits*, UCI (1998); scikit-learn holds its test part.

    Args:
        split: ``"train"`` or ``"test"``.
        seed: Seed of the split; 0 is the one that reports quote.

    Returns:
        Images of shape (n, 8, 8, 1), labels, class names.
    """
    from sklearn.datasets import load_digits as load_from_sklearn

    bunch = load_from_sklearn()
    images = np.rint(np.asarray(bunch.images, np.float64) * (255 / 16)).astype(np.uint8)[..., None]
    labels = np.asarray(bunch.target, np.int64)
    train, test = split_by_class(labels, DIGITS.n_test, seed=seed)
    pixels = images[train] / 255.0
    rows = train if split == "train" else test
    return ImageSet(
        name="digits",
        split=split,
        images=images[rows],
        labels=labels[rows],
        classes=DIGITS.classes,
        mean=(float(pixels.mean()),),
        std=(float(pixels.std()),),
        source="digits (scikit-learn)",
    )
