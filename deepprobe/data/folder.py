"""Image folders: one subfolder a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from deepprobe.data.imageset import ImageSet
from deepprobe.data.options import Split, check_options
from deepprobe.data.partition import split_by_class
from deepprobe.data.places import expanded
from deepprobe.data.readers.picture import read_picture
from deepprobe.data.resize import check_bytes, resize_images
from deepprobe.errors import DataError, MissingDataError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"})
TEST_SHARE = 0.2
N_STATISTICS = 2048

Entry: TypeAlias = "tuple[Path, int]"


def load_image_folder(
    path: str | os.PathLike[str],
    *,
    split: Split = "train",
    input_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> ImageSet:
    """Images of a folder that has one subfolder a class.

    If there are subfolders ``train`` and ``test`` (or ``val``), each with the class folders, they are the splits; else
    a fifth of each class, drawn by the seed, is the test split. Images come in an order shuffled by the seed, so that
    any prefix mixes the classes. Mean and std are taken over the training split, evenly spaced images if it has more
    than 2,048. If those are all grey there is one channel, else three.

    Args:
        path: The folder.
        split: ``"train"`` or ``"test"``.
        input_size: Size in pixels to which the central square of each image is resized; if None, all images must
            have the same size.
        limit: Number of images to take; if None, all.
        seed: Seed of split and order.

    Returns:
        The images; the name is that of the folder, the class names are those of the subfolders, sorted.

    Raises:
        MissingDataError: If the folder, its class folders or their images are not there.
        DataError: If an image is damaged, or their sizes differ and input_size is None.
        ConfigError: If an option is not allowed, the images would take more memory than the limit of
            ``resize_images``, or the path begins with the home of a user who does not exist.
    """
    check_options(split, input_size=input_size, limit=limit, seed=seed)
    root = expanded(path)
    try:
        classes, train, test = _splits(root, seed)
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"image folder {root}: cannot be read ({error.strerror or error})") from error
    chosen = train if split == "train" else test
    order = np.random.default_rng(seed).permutation(len(chosen))[:limit]
    step = -(-len(train) // N_STATISTICS)
    sample = [_square(read_picture(file), input_size) for file, _ in train[::step]]
    channels = max(image.shape[2] for image in sample)
    mean, std = _statistics(sample, channels)
    return ImageSet(
        name=root.resolve().name,
        split=split,
        images=_stack([chosen[i][0] for i in order], channels, input_size),
        labels=np.asarray([chosen[i][1] for i in order], np.int64),
        classes=classes,
        mean=mean,
        std=std,
        source=f"{root.resolve().name} (image folder)",
    )


def _splits(root: Path, seed: int) -> tuple[tuple[str, ...], list[Entry], list[Entry]]:
    """Class names, training and test files."""
    if not root.is_dir():
        raise MissingDataError(f"no image folder {root}; give a folder with one subfolder a class")
    given = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if (root / "train").is_dir() and given:
        classes = _class_names(root / "train")
        strange = sorted(set(_class_names(given[0])) - set(classes))
        if strange:
            raise DataError(f"{given[0]}: class folder {strange[0]!r} is not in {root / 'train'}")
        train, test = _files(root / "train", classes), _files(given[0], classes)
    else:
        classes = _class_names(root)
        files = _files(root, classes)
        labels = np.asarray([label for _, label in files], np.int64)
        rows = split_by_class(labels, round(TEST_SHARE * len(files)), seed=seed)
        train, test = ([files[i] for i in part] for part in rows)
    for part, files in (("training", train), ("test", test)):
        if not files:
            raise MissingDataError(
                f"{root}: no images for the {part} split; expected CLASS/IMAGE files ({_suffixes()})"
            )
    empty = sorted(set(range(len(classes))) - {label for _, label in train})
    if empty:
        raise MissingDataError(f"{root}: class folder {classes[empty[0]]!r} has no training images ({_suffixes()})")
    return classes, train, test


def _class_names(folder: Path) -> tuple[str, ...]:
    """Names of the class folders, sorted."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise MissingDataError(f"{folder}: no class folders; expected CLASS/IMAGE files ({_suffixes()})")
    return tuple(names)


def _files(folder: Path, classes: Sequence[str]) -> list[Entry]:
    """Image files with their labels, class by class, sorted by name."""
    return [
        (file, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for file in sorted((folder / name).iterdir())
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]


def _suffixes() -> str:
    """The file name endings that are taken for images."""
    return " ".join(sorted(SUFFIXES))


def _square(image: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """The central square at the wanted size, or the image itself."""
    if size is None:
        return image
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    (resized,) = resize_images(image[None, top : top + side, left : left + side], size)
    return np.asarray(resized)


def _statistics(images: Sequence[NDArray[np.uint8]], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels divided by 255; a constant channel counts as std 1."""
    counts = np.zeros((channels, 256), np.int64)
    for image in images:
        for c in range(channels):
            counts[c] += np.bincount(image[:, :, min(c, image.shape[2] - 1)].ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255.0
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def _stack(files: Sequence[Path], channels: int, size: int | None) -> NDArray[np.uint8]:
    """All images as one array."""
    out = np.empty((0, 0, 0, channels), np.uint8)
    for i, file in enumerate(files):
        image = _square(read_picture(file), size)
        if i == 0:
            check_bytes(len(files), image.shape[0], image.shape[1], channels)
            out = np.empty((len(files), *image.shape[:2], channels), np.uint8)
        if image.shape[:2] != out.shape[1:3]:
            raise DataError(
                f"{file}: {image.shape[1]}×{image.shape[0]} pixels, but {files[0]} has "
                f"{out.shape[2]}×{out.shape[1]}; give input_size to resize all"
            )
        if image.shape[2] > channels:
            raise DataError(f"{file}: a colour picture among grey ones; convert the folder to one kind")
        out[i] = image
    return out
