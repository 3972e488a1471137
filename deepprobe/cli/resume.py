"""``--resume``: a run's own settings, read back as strictly as those of a file."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from deepprobe.cli.job import NOT_OF_A_RUN
from deepprobe.cli.options import checked
from deepprobe.errors import ConfigError, RunError

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import DataclassInstance

    T = TypeVar("T", bound="DataclassInstance")

MAY_CHANGE = ("data_dir", "device", "threads", "checkpoint_every", "checkpoints_kept", "track")
"""Options that leave the result as it is; other threads change its last bits, of which training warns."""


def runs_to_resume(path: Path) -> list[Path]:
    """The runs that a path names: itself, or every run in the folder.

    Args:
        path: A run, or a folder of runs.

    Returns:
        Their folders, by name.

    Raises:
        RunError: If it is neither, or one of the runs is damaged.
    """
    from deepprobe.runs import list_runs, open_run

    listed = list_runs(path)["path"].tolist()
    if not listed:
        raise RunError(f"{path} is no run and holds none; runs are written by deepprobe train")
    return [open_run(one).path for one in listed]


def kept_settings(path: Path, cls: type[T]) -> dict[str, Any]:
    """The options that a run was begun with, checked as those of a file are.

    Args:
        path: The run's folder.
        cls: The dataclass of options.

    Returns:
        Field name to value. ``threads`` is what it ran with, whether that was asked for or not.

    Raises:
        RunError: If the run is damaged, or was not begun by ``deepprobe train``.
        ConfigError: If what it keeps are no such options.
    """
    from deepprobe.runs import open_run

    provenance = open_run(path).provenance
    command = provenance.get("command")
    if not isinstance(command, dict) or not command:
        raise RunError(f"{path} does not say with what command it was begun; give that command again, and it goes on")
    origin = f"{path}/provenance.json, command"
    if set(command) & set(NOT_OF_A_RUN):
        raise ConfigError(f"{origin}: {sorted(set(command) & set(NOT_OF_A_RUN))[0]!r} is not kept with a run")
    values = {"threads": provenance.get("threads")} | {k: v for k, v in command.items() if v is not None}
    options = checked(cls, values, origin=origin)
    for name in ("models", "seeds"):
        if len(getattr(options, name)) != 1:
            raise ConfigError(f"{origin}: {name} = {command.get(name)!r}: a run has exactly one")
    return {name: getattr(options, name) for name in values}


def refuse_others(path: Path, *, asked: T, kept: T) -> None:
    """Raise ConfigError if something is asked for that would make another run of it.

    Args:
        path: The run's folder, for the message.
        asked: The options now.
        kept: Those it was begun with.
    """
    for field in fields(kept):
        now, before = getattr(asked, field.name), getattr(kept, field.name)
        if now != before and field.name not in (*MAY_CHANGE, "quiet"):
            allowed = " ".join(f"--{name.replace('_', '-')}" for name in (*MAY_CHANGE, "quiet"))
            raise ConfigError(
                f"--{field.name.replace('_', '-')} {now}: {path} goes on as it was begun, with {before}; "
                f"beside --resume may stand {allowed}"
            )
