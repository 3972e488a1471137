"""Files that are either the old ones or the new ones, at whatever moment the process dies.

A file is written aside in the same folder, fsynced, and renamed over its name. Names of the files aside end in
``.aside``; a process that was killed leaves at most such a file, and ``remove_leftovers`` takes it away.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deepprobe.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

ASIDE = ".aside"


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Path to write to; on the way out it is synced and takes the place of ``path``, after an error it is removed.

    Args:
        path: The file to write or replace; its folder must be there.

    Yields:
        A path in the same folder that nothing else uses.

    Raises:
        RunError: If the file cannot be written (disk full, folder read-only); the old file is untouched.
    """
    if path.exists() and not path.is_file():  # a rename would put a file in the place of a device, or fail late
        raise RunError(f"cannot write {path}: it is there and is no file")
    aside = path.with_name(f".{path.name}.{os.getpid()}{ASIDE}")
    try:
        yield aside
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; what was there before is untouched") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file aside and rename it; RunError if that fails, and the old file is untouched."""
    with written_aside(path) as aside:
        aside.write_bytes(content)


def make_folder(path: Path) -> None:
    """Make a folder where it is missing; RunError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {path}: {error.strerror or error}") from error


def remove_file(path: Path) -> None:
    """Remove a file, or find it gone; RunError if it cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot remove {path}: {error.strerror or error}") from error


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the files aside that killed processes left in a folder and below; returns what was removed."""
    removed = []
    for path in sorted(folder.rglob(f".*{ASIDE}")):
        with suppress(OSError):
            path.unlink()
            removed.append(path)
    return removed


def _sync(path: Path) -> None:
    """Ask the system to put a file, or a folder's list of names, on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
