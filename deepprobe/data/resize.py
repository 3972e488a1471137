"""Images at another size: area average where the factor is whole, bilinear otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from deepprobe.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_BYTES = 4 * 2**30
"""Largest uint8 array of images that is made."""


def check_bytes(n: int, height: int, width: int, channels: int) -> None:
    """Refuse to allocate more than MAX_BYTES of pixels.

    Args:
        n: Images.
        height: Rows of an image.
        width: Columns of an image.
        channels: Channels of an image.

    Raises:
        ConfigError: If n·height·width·channels exceeds MAX_BYTES.
    """
    if n * height * width * channels > MAX_BYTES:
        raise ConfigError(
            f"{n} images of {height}×{width}×{channels} take {n * height * width * channels / 2**30:.1f} GiB, "
            f"more than {MAX_BYTES // 2**30} GiB; give a smaller limit or input_size"
        )


def resize_images(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Images at size × size pixels.

    A whole down-factor of both sides (28 → 14, 32 → 8) takes the mean of each patch, halves rounded up. Everything
    else is Pillow's bilinear filter, which widens its support when it shrinks and thus does not alias.

    Args:
        images: uint8, shape (n, height, width, channels), 1 or 3 channels.
        size: New height and width in pixels.

    Returns:
        uint8, shape (n, size, size, channels); the input itself if it has that size.

    Raises:
        ConfigError: If size is below 1, or the result would exceed MAX_BYTES.
    """
    n, height, width, channels = images.shape
    if size < 1:
        raise ConfigError(f"input_size={size} must be at least 1 pixel")
    if (height, width) == (size, size):
        return images
    check_bytes(n, size, size, channels)
    if height % size == 0 and width % size == 0:
        rows, columns = height // size, width // size
        patches = images.reshape(n, size, rows, size, columns, channels)
        total = patches.sum(axis=(2, 4), dtype=np.uint32)
        area = rows * columns
        return np.asarray((total + area // 2) // area, np.uint8)
    out = np.empty((n, size, size, channels), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
        out[i] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)
    return out
