"""A set of images with labels, as it lies in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deepprobe.data.resize import resize_images
from deepprobe.errors import DataError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels of one split.

    Attributes:
        name: Name of the set, such as ``"mnist"``.
        split: ``"train"`` or ``"test"``.
        images: Pixels, uint8 0 … 255, shape (n, height, width, channels).
        labels: Class of each image, int64, shape (n,).
        classes: Name of each class, in the order of the labels.
        mean: Mean of each channel over the training split at native size, pixels divided by 255.
        std: Standard deviation of each channel, likewise.
        source: The set and the format that was read, such as ``"cifar10 (AVIF copy)"``.

    Raises:
        DataError: If arrays, classes and statistics do not fit each other.
    """

    name: str
    split: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = ""

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(
                f"images of {self.name!r} must be uint8 of shape (n, height, width, channels), "
                f"not {self.images.dtype} of shape {self.images.shape}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise DataError(
                f"labels of {self.name!r} must be int64 of shape {self.images.shape[:1]}, one an image, "
                f"not {self.labels.dtype} of shape {self.labels.shape}"
            )
        if not len(self.mean) == len(self.std) == self.images.shape[3]:
            raise DataError(
                f"{self.name!r} has {self.images.shape[3]} channels, "
                f"but {len(self.mean)} means and {len(self.std)} standard deviations"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"labels of {self.name!r} must be 0 … {len(self.classes) - 1}, "
                f"found {self.labels.min()} … {self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, n: int) -> ImageSet:
        """The first n images (all, if there are fewer)."""
        return replace(self, images=self.images[:n], labels=self.labels[:n])

    def at_size(self, size: int) -> ImageSet:
        """The images at size × size pixels; mean and std stay those of the native size.

        Raises:
            ConfigError: If size is below 1, or the result would exceed the limit of ``resize_images``.
        """
        return replace(self, images=resize_images(self.images, size))

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images normalised by mean and std, and labels.

        Returns:
            Images, float32, shape (n, channels, height, width); labels, int64, shape (n,). Both are copies.
        """
        import torch

        pixels = self.images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        pixels /= np.float32(255)
        pixels -= np.asarray(self.mean, np.float32)[:, None, None]
        pixels /= np.asarray(self.std, np.float32)[:, None, None]
        return torch.from_numpy(pixels), torch.from_numpy(self.labels.copy())
