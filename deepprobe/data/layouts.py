"""The forms in which the files of a known data set may lie on disk, the exact ones first."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deepprobe.data.catalogue import CATALOGUE, FASHION_MNIST, MNIST, Facts
from deepprobe.data.options import Split
from deepprobe.data.readers.bounded import read_bounded, read_members
from deepprobe.data.readers.cifar import Batch, binary_limit, decode_binary, decode_python, python_limit
from deepprobe.data.readers.idx import read_idx, read_idx_labels
from deepprobe.data.readers.picture import SIDE, read_mosaic
from deepprobe.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SMALL_MEMBERS = 2**20
"""Bytes that an archive may hold beside the images: class names, a readme, headers."""


class Reader(Protocol):
    """Images and labels of one split from its files, in the order of Layout.files; at least ``limit``, if given."""

    def __call__(self, paths: Sequence[Path], facts: Facts, split: Split, limit: int | None) -> Batch:
        """Read the files."""
        ...


@dataclass(frozen=True)
class Layout:
    """One form in which a data set may lie on disk.

    Attributes:
        title: Name of the format.
        folders: Folders below the data directory; ``"."`` is the data directory itself, and ``"./NAME"`` the data
            directory only if it is called NAME (for files whose names do not tell the set).
        files: Names of the files of each split, relative to the folder.
        read: The reader.
        exact: Whether the pixels are the official ones.
    """

    title: str
    folders: tuple[str, ...]
    files: dict[Split, tuple[str, ...]]
    read: Reader
    exact: bool = True

    def places(self, directory: Path) -> list[Path]:
        """Folders to look into."""
        own = [directory] if f"./{directory.absolute().name}" in self.folders else []
        return own + [directory / folder for folder in self.folders if not folder.startswith("./")]


def layouts(name: str) -> tuple[Layout, ...]:
    """Forms in which a known data set is looked for, in order of preference.

    Args:
        name: ``"mnist"``, ``"fashion-mnist"``, ``"cifar10"`` or ``"cifar100"``.

    Returns:
        Official formats first, then the AVIF copy.
    """
    if name in (MNIST.name, FASHION_MNIST.name):
        raw = "MNIST/raw" if name == MNIST.name else "FashionMNIST/raw"
        return (Layout("IDX", (name, raw, "."), _idx_files(), _read_idx_pair),)
    stem = name.replace("cifar", "cifar-")
    python = "cifar-10-batches-py" if name == "cifar10" else "cifar-100-python"
    binary = "cifar-10-batches-bin" if name == "cifar10" else "cifar-100-binary"
    homes = (".", name)
    forms = []
    for title, folder, archive, suffix in (
        ("Python format", python, f"{stem}-python.tar.gz", ""),
        ("binary format", binary, f"{stem}-binary.tar.gz", ".bin"),
    ):
        files = _cifar_files(name, folder, suffix)
        packed: dict[Split, tuple[str, ...]] = {"train": (archive,), "test": (archive,)}
        forms.append(Layout(title, homes, files, partial(_read_cifar_files, binary=bool(suffix))))
        forms.append(Layout(title, homes, packed, partial(_read_cifar_archive, members=files, binary=bool(suffix))))
    mosaics: dict[Split, tuple[str, ...]] = {
        "train": ("train-labels-idx1-ubyte[.gz]", *(f"train-{i}.avif" for i in range(5))),
        "test": ("test-labels-idx1-ubyte[.gz]", "test.avif"),
    }
    return (*forms, Layout("AVIF copy", (name, f"./{name}"), mosaics, _read_mosaics, exact=False))


def _idx_files() -> dict[Split, tuple[str, ...]]:
    """Names of the MNIST files."""
    return {
        "train": ("train-images-idx3-ubyte[.gz]", "train-labels-idx1-ubyte[.gz]"),
        "test": ("t10k-images-idx3-ubyte[.gz]", "t10k-labels-idx1-ubyte[.gz]"),
    }


def _cifar_files(name: str, folder: str, suffix: str) -> dict[Split, tuple[str, ...]]:
    """Names of the CIFAR files, as they stand in folder and archive."""
    if name == "cifar100":
        return {"train": (f"{folder}/train{suffix}",), "test": (f"{folder}/test{suffix}",)}
    train = tuple(f"{folder}/data_batch_{i}{suffix}" for i in range(1, 6))
    return {"train": train, "test": (f"{folder}/test_batch{suffix}",)}


def _read_idx_pair(paths: Sequence[Path], facts: Facts, split: Split, limit: int | None) -> Batch:
    """Images and labels of MNIST or Fashion-MNIST, which use the same file names."""
    n = facts.n(split)
    labels = read_idx_labels(paths[1], n, len(facts.classes))
    images = read_idx(paths[0], (n, *facts.shape[:2]))
    if len(images) != len(labels):
        raise DataError(f"{paths[0]}: {len(images)} images, but {paths[1]} has {len(labels)} labels")
    _check_identity(labels, paths[1], facts, split)
    return images[..., None], labels


def _check_identity(labels: np.ndarray, path: Path, facts: Facts, split: Split) -> None:
    """Refuse one set's label file in the place of another's."""
    if len(labels) != facts.n(split):
        return
    file = bytes((0, 0, 8, 1)) + len(labels).to_bytes(4, "big") + labels.astype(np.uint8).tobytes()
    md5 = hashlib.md5(file, usedforsecurity=False).hexdigest()
    if facts.label_md5.get(split, md5) != md5:
        raise DataError(
            f"{path}: the labels are not those of {facts.name} (MD5 {md5}, expected {facts.label_md5[split]}); "
            f"put the files of another set into a folder of its name"
        )
    for other in CATALOGUE.values():
        if other.name != facts.name and other.label_md5.get(split) == md5:
            raise DataError(
                f"{path}: the labels are those of {other.name}, not of {facts.name}; "
                f"put the files of {facts.name} into a folder of that name"
            )


def _read_cifar_files(paths: Sequence[Path], facts: Facts, split: Split, limit: int | None, *, binary: bool) -> Batch:
    """CIFAR from an unpacked folder."""
    n = facts.n(split) // len(paths)
    size = binary_limit(n) if binary else python_limit(n)
    return _joined([_decode(read_bounded(p, limit=size), str(p), facts, n, binary=binary) for p in paths])


def _read_cifar_archive(
    paths: Sequence[Path],
    facts: Facts,
    split: Split,
    limit: int | None,
    *,
    members: dict[Split, tuple[str, ...]],
    binary: bool,
) -> Batch:
    """CIFAR from the archive as it was downloaded."""
    names = members[split]
    n = facts.n(split) // len(names)
    size = binary_limit if binary else python_limit
    total = sum(size(facts.n(other) // len(files)) * len(files) for other, files in members.items()) + _SMALL_MEMBERS
    contents = read_members(paths[0], names, limit=size(n), total=total)
    return _joined([_decode(contents.pop(m), f"{paths[0]}:{m}", facts, n, binary=binary) for m in names])


def _decode(content: bytes, origin: str, facts: Facts, n: int, *, binary: bool) -> Batch:
    """One CIFAR file in either format."""
    fine, n_classes = facts.name == "cifar100", len(facts.classes)
    if binary:
        return decode_binary(content, origin, n_label_bytes=2 if fine else 1, n=n, n_classes=n_classes)
    return decode_python(content, origin, key="fine_labels" if fine else "labels", n=n, n_classes=n_classes)


def _joined(parts: Sequence[Batch]) -> Batch:
    """Batches one after the other."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _read_mosaics(paths: Sequence[Path], facts: Facts, split: Split, limit: int | None) -> Batch:
    """The AVIF copy; only as many pictures as ``limit`` needs are decoded."""
    labels = read_idx_labels(paths[0], facts.n(split), len(facts.classes))
    if len(labels) != facts.n(split):
        raise DataError(f"{paths[0]}: expected {facts.n(split)} labels, found {len(labels)}")
    wanted = len(labels) if limit is None else min(limit, len(labels))
    n_pictures = max(1, -(-wanted // SIDE**2))
    images = np.empty((n_pictures * SIDE**2, *facts.shape), np.uint8)
    for i, path in enumerate(paths[1 : 1 + n_pictures]):
        images[i * SIDE**2 : (i + 1) * SIDE**2] = read_mosaic(path)
    return images, labels[: len(images)]
