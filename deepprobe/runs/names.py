"""Names of runs: an allow-list, and a look at where the path really leads."""

from __future__ import annotations

import re
from pathlib import Path

from deepprobe.errors import RunError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def run_path(folder: Path | str, name: str) -> Path:
    """Path of the run of that name in a folder.

    Args:
        folder: Folder of runs; need not be there yet.
        name: 1 to 100 letters, digits, dots, underscores and hyphens, the first a letter or a digit.

    Returns:
        The resolved path, a direct child of the folder.

    Raises:
        RunError: If the name is not of this form, or a link of that name leads elsewhere.

    Example:
        >>> run_path("runs", "resnet164-seed0").name
        'resnet164-seed0'
    """
    if not isinstance(name, str) or _NAME.match(name) is None:
        raise RunError(
            f"{name!r} cannot name a run; use 1 to 100 letters, digits, '.', '_', '-', the first a letter or digit"
        )
    parent = Path(folder).resolve()
    path = (parent / name).resolve()
    if path.parent != parent:
        raise RunError(f"run {name!r} in {parent} is a link to {path}; open that folder instead")
    return path
