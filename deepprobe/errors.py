"""Every error that deepprobe raises on purpose.

DeepprobeError
├── ConfigError          (ValueError)         a setting, option or file of settings is wrong
├── UnknownNameError     (LookupError)        no model, data set, layer or run of that name
├── ShapeError           (ValueError)         a tensor does not fit what was asked of it
├── SpectrumError        (ValueError)         a spectrum cannot be formed or asked for that
├── DataError            (ValueError)         a data file is damaged or not what it claims to be
│   └── MissingDataError (FileNotFoundError)  the files of a data set are not there
├── RunError             (ValueError)         a run folder is damaged or belongs to something else
│   └── CheckpointError  (ValueError)         a checkpoint is damaged, hostile or of another model
├── MissingPackageError  (ImportError)        something asked for needs a package that an extra installs
├── NonFiniteError       (ArithmeticError)    training met NaN or infinity
├── OutOfMemoryError     (MemoryError)        a device has too little memory for a step of training
├── RankLostError        (RuntimeError)       another process that trains the same network ended
└── SweepError           (RuntimeError)       some tasks of a sweep failed
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class DeepprobeError(Exception):
    """Base of all errors that deepprobe raises on purpose; the message is meant for the user."""


class ConfigError(DeepprobeError, ValueError):
    """A setting is wrong: the message names it, its value and what is allowed."""


class UnknownNameError(DeepprobeError, LookupError):
    """A name matches nothing; the message gives the nearest ones."""


class ShapeError(DeepprobeError, ValueError):
    """A tensor does not fit; the message gives its shape and the one that was expected."""


class SpectrumError(DeepprobeError, ValueError):
    """A spectrum cannot be formed from these values, or was asked something it cannot answer."""


class DataError(DeepprobeError, ValueError):
    """A data file is damaged or is not what it claims to be."""


class MissingDataError(DataError, FileNotFoundError):
    """The files of a data set are not there; the message says which, where, and how to get them."""


class RunError(DeepprobeError, ValueError):
    """A run folder is damaged, incomplete, or belongs to another configuration."""


class CheckpointError(RunError):
    """A checkpoint is damaged, hostile, or holds the weights of another model."""


class MissingPackageError(DeepprobeError, ImportError):
    """A package that deepprobe works with, but does not need, is not installed; the message says how to get it."""


class NonFiniteError(DeepprobeError, ArithmeticError):
    """Training met NaN or infinity; the message gives the step and where it first stood."""


class OutOfMemoryError(DeepprobeError, MemoryError):
    """A step of training does not fit into memory; the message gives batch, model and settings to try."""


class RankLostError(DeepprobeError, RuntimeError):
    """Another process that trains the same network ended; its own message says why."""


class SweepError(DeepprobeError, RuntimeError):
    """Some tasks of a sweep failed; the message says which and why, and how many were done."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Sentence that offers the names nearest to a misspelt one, for the end of an error message."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"there are {', '.join(names[:8])}{' …' if len(names) > 8 else ''}" if names else "there are none"
