"""One writer a run: a lock that the system gives back when its process dies, however it dies."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deepprobe.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there a run is not locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
HAS_LOCKS = fcntl is not None
PAUSES = (0.01, 0.03, 0.1)
"""Seconds before each further attempt: who looks whether a lock is held (``is_locked``) holds it for an instant."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes (and other holders in this one) from writing to a folder.

    Args:
        folder: Must be there.

    Yields:
        Nothing.

    Raises:
        RunError: If another one holds the lock, or the lock's file cannot be made.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        if fcntl is not None:
            _take(descriptor)
        yield
    except BlockingIOError as error:
        raise RunError(f"another process is writing to {folder}; wait for it, or choose another name") from error
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    """Take the lock for this process alone; BlockingIOError if another one keeps it."""
    for pause in PAUSES:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(folder: Path) -> bool:
    """Whether someone writes to a folder now; True also where the system cannot say. Writes nothing itself.

    Args:
        folder: Folder that ``locked`` may have been entered for, on this machine or another that shares it.
    """
    if not HAS_LOCKS:
        return True
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # BlockingIOError where it is held; others where the file system knows no locks
        return True
    finally:
        os.close(descriptor)
    return False
