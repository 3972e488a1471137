"""Where the files of a data set lie, and what to say if they do not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from deepprobe.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE = "DEEPPROBE_DATA"


def data_directory(data_dir: str | os.PathLike[str] | None = None) -> tuple[Path, str]:
    """Folder in which data sets are looked for, and who named it.

    Args:
        data_dir: Folder; if None, the environment variable DEEPPROBE_DATA, else the user's cache folder.

    Returns:
        The folder (which need not exist), and ``"data_dir"``, ``"DEEPPROBE_DATA"`` or ``"the user's cache"``.

    Raises:
        ConfigError: If the folder begins with the home of a user who does not exist.
    """
    if data_dir is not None:
        return expanded(data_dir), "data_dir"
    if os.environ.get(VARIABLE):
        return expanded(os.environ[VARIABLE]), VARIABLE
    return platformdirs.user_cache_path("deepprobe", appauthor=False) / "data", "the user's cache"


def expanded(path: str | os.PathLike[str]) -> Path:
    """Path with a leading ``~`` replaced by the user's home.

    Raises:
        ConfigError: If there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"the path {os.fspath(path)!r} begins with the home of an unknown user") from error


@dataclass(frozen=True)
class Search:
    """Outcome of a search for a group of files that belong together.

    Attributes:
        needed: Names of the files, ``[.gz]`` standing for *with or without*.
        folders: Folders that were looked into.
        found: One path a name, in the order of the names; empty if no folder has them all.
        partial: ``(folder, names it has, names it lacks)`` of each folder that has some.
    """

    needed: tuple[str, ...]
    folders: tuple[Path, ...]
    found: tuple[Path, ...]
    partial: tuple[tuple[Path, tuple[str, ...], tuple[str, ...]], ...]


def search(folders: Sequence[Path], names: Sequence[str]) -> Search:
    """The first folder that has all files of a group.

    Args:
        folders: Folders in order of preference.
        names: File names relative to the folder; one that ends in ``[.gz]`` may be there plain or compressed.

    Returns:
        What was found, and what was not.

    Raises:
        DataError: If the system refuses to look.
    """
    partial = []
    for folder in folders:
        paths = {name: _present(folder, name) for name in names}
        there = tuple(path for path in paths.values() if path is not None)
        if len(there) == len(names):
            return Search(tuple(names), tuple(folders), there, ())
        if there:
            have = tuple(str(path.relative_to(folder)) for path in there)
            partial.append((folder, have, tuple(name for name, path in paths.items() if path is None)))
    return Search(tuple(names), tuple(folders), (), tuple(partial))


def _present(folder: Path, name: str) -> Path | None:
    """Path of a file, plain before compressed, if it is a regular file."""
    stem = name.removesuffix("[.gz]")
    for candidate in (stem, *([stem + ".gz"] if stem != name else [])):
        path = folder / candidate
        try:
            if path.is_file():
                return path
        except OSError as error:
            raise DataError(f"{path}: cannot be looked up ({error.strerror or error})") from error
    return None
