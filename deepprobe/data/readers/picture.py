"""Pictures through Pillow, opened only in the formats named and only at a sane size."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from deepprobe.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MAX_FILE = 64 * 2**20
"""Largest picture file in bytes."""
FREE_PIXELS, PIXELS_A_BYTE = 2**24, 64
"""A picture may have 16.8 million pixels, or so many for each byte of its file: photographs have 2 to 20."""
MAX_SCANS = 100
"""Passes over a JPEG picture: cameras write 1, progressive ones about 10; each costs the time of a whole picture."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
_GREY = frozenset({"1", "L"})
_COLOUR = frozenset({"LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})

SIDE, TILE = 100, 32
"""A mosaic has SIDE × SIDE tiles of TILE × TILE pixels."""


def read_picture(
    path: Path, *, formats: Sequence[str] = FORMATS, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Pixels of one picture; of an animation the first frame.

    Args:
        path: The file.
        formats: Names of the formats that Pillow may try.
        size: Width and height that the picture must have, if any; checked before it is decoded.

    Returns:
        uint8, shape (height, width, 1) for a grey picture, else (height, width, 3); turned upright as its EXIF says.

    Raises:
        DataError: If the file cannot be read, is damaged, of another format, size or pixel type, or too large
            (Pillow's limit of 89 million pixels; MAX_FILE bytes) or a bomb (FREE_PIXELS, MAX_SCANS).
    """
    try:
        length = path.stat().st_size
        if length > MAX_FILE:
            raise DataError(f"{path}: expected at most {MAX_FILE} bytes, found {length}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=[f for f in formats if f != "AVIF" or features.check("avif")]) as picture:
                _check_effort(picture, path, length)
                return _pixels(picture, path, size)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: expected a picture ({', '.join(formats)}), found something else") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the picture claims too many pixels ({error})") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet: struct.error, KeyError, …
        raise DataError(f"{path}: the picture cannot be read ({type(error).__name__}: {error})") from error


def read_mosaic(path: Path) -> NDArray[np.uint8]:
    """Tiles of an AVIF picture of 100 × 100 images of 32 × 32 pixels, row by row.

    Args:
        path: The file.

    Returns:
        uint8, shape (10000, 32, 32, 3).

    Raises:
        DataError: If this Pillow cannot read AVIF, or the file is not an AVIF picture of 3200 × 3200 colour pixels.
    """
    if not features.check("avif"):
        raise DataError(f"{path}: this Pillow cannot read AVIF; install pillow 11.3 or newer from its wheels")
    pixels = read_picture(path, formats=("AVIF",), size=(SIDE * TILE, SIDE * TILE))
    if pixels.shape[2] != 3:
        raise DataError(f"{path}: expected a colour picture, found a grey one")
    tiles = pixels.reshape(SIDE, TILE, SIDE, TILE, 3).swapaxes(1, 2)
    return tiles.reshape(SIDE * SIDE, TILE, TILE, 3)


def _check_effort(picture: Image.Image, path: Path, length: int) -> None:
    """Refuse an opened picture that would take far more memory or time than its file's length lets expect."""
    n = picture.width * picture.height
    if n > max(FREE_PIXELS, PIXELS_A_BYTE * length):
        raise DataError(f"{path}: the picture claims too many pixels ({n:,} in {length:,} bytes: a bomb)")
    if picture.format == "JPEG":
        n_scans = path.read_bytes().count(b"\xff\xda")
        if n_scans > MAX_SCANS:
            raise DataError(f"{path}: expected at most {MAX_SCANS} scans, found {n_scans:,}")


def _pixels(picture: Image.Image, path: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Pixels of an opened picture, whose size and type are checked first."""
    if size is not None and picture.size != size:
        raise DataError(
            f"{path}: expected a picture of {size[0]}×{size[1]} pixels, found {picture.width}×{picture.height}"
        )
    if picture.mode not in _GREY | _COLOUR:
        raise DataError(f"{path}: expected 8-bit grey or colour pixels, found Pillow's mode {picture.mode!r}")
    wanted = "L" if picture.mode in _GREY else "RGB"
    ImageOps.exif_transpose(picture, in_place=True)
    upright = picture if picture.mode == wanted else picture.convert(wanted)
    pixels = np.asarray(upright)
    return pixels[:, :, None] if wanted == "L" else pixels
