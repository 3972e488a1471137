from __future__ import annotations

import numpy as np
import pytest
import torch

from deepprobe.data import ImageSet
from deepprobe.errors import DataError


def image_set(**changes: object) -> ImageSet:
    rng = np.random.default_rng(0)
    given: dict = {
        "name": "toy",
        "split": "train",
        "images": rng.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8),
        "labels": np.array([0, 1, 2, 1, 0]),
        "classes": ("a", "b", "c"),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
    }
    return ImageSet(**(given | changes))


def test_tensors_are_normalised_channels_first() -> None:
    toy = image_set()
    pixels, labels = toy.tensors()
    assert pixels.shape == (5, 3, 4, 6)
    assert (pixels.dtype, labels.dtype) == (torch.float32, torch.int64)
    for n, c, y, x in [(0, 0, 0, 0), (4, 2, 3, 5), (2, 1, 1, 4)]:
        expected = (toy.images[n, y, x, c] / 255 - toy.mean[c]) / toy.std[c]
        assert pixels[n, c, y, x].item() == pytest.approx(expected, abs=1e-6)
    labels[0] = 2
    assert toy.labels[0] == 0


def test_tensors_of_read_only_pixels() -> None:
    images = np.frombuffer(bytes(range(200)) + bytes(160), np.uint8).reshape(5, 4, 6, 3)
    pixels, _ = image_set(images=images).tensors()
    pixels.zero_()
    assert images.max() == 199


def test_take_and_length() -> None:
    assert len(image_set()) == 5
    assert image_set().take(2).labels.tolist() == [0, 1]
    assert len(image_set().take(9)) == 5
    assert image_set().take(0).tensors()[0].shape == (0, 3, 4, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": np.zeros((5, 4, 6), np.uint8)},
            "images of 'toy' must be uint8 of shape (n, height, width, channels), not uint8 of shape (5, 4, 6)",
        ),
        (
            {"images": np.zeros((5, 4, 6, 3), np.float32)},
            "images of 'toy' must be uint8 of shape (n, height, width, channels), not float32 of shape (5, 4, 6, 3)",
        ),
        (
            {"labels": np.array([0, 1])},
            "labels of 'toy' must be int64 of shape (5,), one an image, not int64 of shape (2,)",
        ),
        ({"mean": (0.5,)}, "'toy' has 3 channels, but 1 means and 3 standard deviations"),
        ({"labels": np.array([0, 1, 2, 3, 0])}, "labels of 'toy' must be 0 … 2, found 0 … 3"),
        ({"labels": np.array([0, -1, 2, 1, 0])}, "labels of 'toy' must be 0 … 2, found -1 … 2"),
    ],
)
def test_refuses_what_does_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(DataError) as caught:
        image_set(**changes)
    assert str(caught.value) == message
