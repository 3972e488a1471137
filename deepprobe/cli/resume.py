"""``--resume``: a run's own settings, read back as strictly as those of a file."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from deepprobe.cli.job import NOT_OF_A_RUN, STUDY, Study, run_name
from deepprobe.cli.options import checked
from deepprobe.errors import ConfigError, RunError

if TYPE_CHECKING:
    from collections.abc import Sequence
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
    own = {k: v for k, v in command.items() if v is not None and k != STUDY}
    values = {"threads": provenance.get("threads")} | own
    options = checked(cls, values, origin=origin)
    for name in ("models", "seeds"):
        if len(getattr(options, name)) != 1:
            raise ConfigError(f"{origin}: {name} = {command.get(name)!r}: a run has exactly one")
    return {name: getattr(options, name) for name in values}


def kept_study(path: Path, cls: type[DataclassInstance]) -> Study:
    """The models and seeds that were asked for together with a run; errors as ``kept_settings``.

    Runs from before they were kept have none but their own.
    """
    from deepprobe.runs import open_run

    command = open_run(path).provenance["command"]
    asked = command.get(STUDY, {key: command[key] for key in ("models", "seeds") if key in command})
    origin = f"{path}/provenance.json, command, {STUDY}"
    if not isinstance(asked, dict) or set(asked) != {"models", "seeds"}:
        raise ConfigError(f"{origin} = {asked!r}: it holds models and seeds")
    options: Any = checked(cls, asked, origin=origin)
    return Study(options.models, options.seeds)


def never_begun(begun: Sequence[Path], cls: type[DataclassInstance]) -> dict[tuple[str, int], Path]:
    """Runs that were asked for together with those of a folder, and of which nothing is there.

    Args:
        begun: All runs of the folder.
        cls: The dataclass of options.

    Returns:
        Model and seed, to the run that was asked for together with it.

    Raises:
        RunError: If two commands asked for one run, with different settings.
        ConfigError: As ``kept_settings``.
    """
    found: dict[tuple[str, int], Path] = {}
    for path in begun:
        for model, seed in kept_study(path, cls).runs:
            if path.parent / run_name(model, seed) in begun:
                continue
            first = found.setdefault((model, seed), path)
            if first != path and _shared(first, cls) != _shared(path, cls):
                raise RunError(
                    f"{run_name(model, seed)} was never begun, and was asked for with the settings of {first} and with "
                    f"those of {path}: give its command again"
                )
    return found


def _shared(path: Path, cls: type[DataclassInstance]) -> dict[str, Any]:
    """Settings of a run that those asked for together with it have as well."""
    own = ("models", "seeds", *MAY_CHANGE)
    return {name: value for name, value in kept_settings(path, cls).items() if name not in own}


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
