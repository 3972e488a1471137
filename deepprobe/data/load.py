"""Any data set by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepprobe.data.catalogue import CATALOGUE, Facts
from deepprobe.data.digits import load_digits
from deepprobe.data.folder import load_image_folder
from deepprobe.data.imageset import ImageSet
from deepprobe.data.layouts import Layout, layouts
from deepprobe.data.options import Split, check_options
from deepprobe.data.places import VARIABLE, Search, data_directory, search
from deepprobe.errors import MissingDataError, UnknownNameError, nearest

if TYPE_CHECKING:
    import os
    from pathlib import Path

FOLDER = "folder:"


def load_dataset(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: Split = "train",
    input_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> ImageSet:
    """Images and labels of one split of a data set, in the order of its files.

    ``digits`` needs no files. ``mnist``, ``fashion-mnist`` (IDX), ``cifar10`` and ``cifar100`` (Python or binary
    archives, packed or unpacked; AVIF copies) are read from the data directory, or its subfolder of their name; exact
    files win over copies. ``folder:PATH`` is an image folder, see ``load_image_folder``. Nothing is downloaded, no
    pickle is executed, and files with fewer images than the official ones are accepted: ``source`` says so.

    Args:
        name: One of ``list_datasets()``, or ``folder:PATH``.
        data_dir: Folder of the data sets; if None, the environment variable DEEPPROBE_DATA, else the user's cache.
        split: ``"train"`` or ``"test"``.
        input_size: Height and width in pixels to resize to (``resize_images``); if None, as the files have it.
        limit: Number of images to take from the beginning; if None, all.
        seed: Seed of the split of a set that has no official one: digits and image folders.

    Returns:
        The images. ``mean`` and ``std`` are those of the training split at native size.

    Raises:
        UnknownNameError: If there is no data set of that name.
        ConfigError: If split, input_size, limit or seed is not allowed, or data_dir begins with an unknown user's home.
        MissingDataError: If the files are not there; the message says which, where, and how to get them.
        DataError: If a file is damaged or not what its name says.

    Example:
        >>> digits = load_dataset("digits", split="test", limit=100)
        >>> digits.images.shape, digits.source
        ((100, 8, 8, 1), 'digits (scikit-learn)')
    """
    check_options(split, input_size=input_size, limit=limit, seed=seed)
    if name.startswith(FOLDER):
        path = name.removeprefix(FOLDER)
        return load_image_folder(path, split=split, input_size=input_size, limit=limit, seed=seed)
    if name not in CATALOGUE:
        raise UnknownNameError(
            f"no data set {name!r}; {nearest(name, CATALOGUE)} (image folders are given as '{FOLDER}PATH')"
        )
    if name == "digits":
        images = load_digits(split, seed=seed)
    else:
        images = _load_files(CATALOGUE[name], data_directory(data_dir), split, limit)
    if limit is not None:
        images = images.take(limit)
    return images if input_size is None else images.at_size(input_size)


def _load_files(facts: Facts, directory: tuple[Path, str], split: Split, limit: int | None) -> ImageSet:
    """The first form of a set whose files are all there."""
    searches: list[tuple[Layout, Search]] = []
    for layout in layouts(facts.name):
        outcome = search(layout.places(directory[0]), layout.files[split])
        searches.append((layout, outcome))
        if not outcome.found:
            continue
        images, labels = layout.read(outcome.found, facts, split, limit)
        whole = len(labels) == facts.n(split) or (limit is not None and not layout.exact)
        note = "" if whole else f", {len(labels)} of {facts.n(split)} images"
        return ImageSet(
            name=facts.name,
            split=split,
            images=images,
            labels=labels,
            classes=facts.classes,
            mean=facts.mean if layout.exact else facts.copy_mean,
            std=facts.std if layout.exact else facts.copy_std,
            source=f"{facts.name} ({layout.title}{note})",
        )
    raise MissingDataError(_missing(facts, directory, split, searches))


def _missing(facts: Facts, directory: tuple[Path, str], split: str, searches: list[tuple[Layout, Search]]) -> str:
    """Message that says which files were looked for, where, and how to get them."""
    folder, named_by = directory
    exists = "" if folder.is_dir() else ", which does not exist"
    lines = [f"the files of {facts.name} ({split}) are not in {folder} (from {named_by}{exists})"]
    for folders in dict.fromkeys(outcome.folders for _, outcome in searches):
        lines.append(f"  looked in {', '.join(str(path) for path in folders)}, for")
        for layout, outcome in searches:
            if outcome.folders == folders:
                lines.append(f"    {layout.title}: {' + '.join(outcome.needed)}")
    for _, outcome in searches:
        for place, have, lack in outcome.partial:
            lines.append(f"  {place} has {', '.join(have)}, but lacks {', '.join(lack)}")
    lines.append(f"  get them from {facts.origin}, and name their folder with --data-dir, data_dir= or {VARIABLE};")
    lines.append("  the data set 'digits' needs no files")
    return "\n".join(lines)
