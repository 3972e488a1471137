"""Images and labels: known sets from a data directory, image folders, and batches of anything.

Every name is resolved on first use, so that listing the sets loads neither torch nor scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepprobe.data.batching import as_batches, batches
    from deepprobe.data.catalogue import list_datasets
    from deepprobe.data.folder import load_image_folder
    from deepprobe.data.imageset import ImageSet
    from deepprobe.data.load import load_dataset
    from deepprobe.data.places import data_directory

__all__ = [
    "ImageSet",
    "as_batches",
    "batches",
    "data_directory",
    "list_datasets",
    "load_dataset",
    "load_image_folder",
]

_HOMES = {
    "ImageSet": "imageset",
    "as_batches": "batching",
    "batches": "batching",
    "data_directory": "places",
    "list_datasets": "catalogue",
    "load_dataset": "load",
    "load_image_folder": "folder",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
