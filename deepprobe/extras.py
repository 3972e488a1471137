"""Packages that only an extra installs: fetched when they are asked for, and a plain word where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from deepprobe.errors import MissingPackageError

if TYPE_CHECKING:
    from types import ModuleType


def module_of_extra(name: str, *, extra: str) -> ModuleType:
    """Import a module that deepprobe does not depend on.

    Args:
        name: Dotted name of the module.
        extra: The extra of deepprobe that brings it.

    Returns:
        The module.

    Raises:
        MissingPackageError: If its package, or one that it needs, is not installed.

    Example:
        >>> module_of_extra("json", extra="trackers").__name__
        'json'
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise missing(name, extra=extra, error=error) from error


def missing(name: str, *, extra: str, error: ImportError) -> MissingPackageError:
    """The error to raise where the package of a module cannot be imported."""
    return MissingPackageError(
        f"{name} cannot be imported ({error}); install it with: pip install 'deepprobe[{extra}]'", name=name
    )
