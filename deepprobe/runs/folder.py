"""Runs in a folder: make one, open one, list them all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepprobe.errors import RunError
from deepprobe.runs.atomic import ASIDE, make_folder
from deepprobe.runs.database import create_database
from deepprobe.runs.lock import LOCK, is_locked, locked
from deepprobe.runs.manifest import MANIFEST, Manifest, digest_of_file, write_json
from deepprobe.runs.names import run_path
from deepprobe.runs.run import CONFIG, IDENTITY, PROVENANCE, RECORDS, FolderRun

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = ("name", "status", "model", "data", "seed", "epochs", "test_accuracy", "path")
"""Columns of ``list_runs``."""


def create_run(
    folder: Path | str,
    *,
    name: str,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    identity: Mapping[str, Any] | None = None,
) -> FolderRun:
    """Make the folder of a run, or open the one that is there if it is of the same configuration.

    The manifest is written last: a folder without it was never completely made and is made anew.

    Args:
        folder: Folder of runs; made where it is missing.
        name: Name of the run, its folder's name.
        config: The resolved configuration; plain values.
        provenance: Versions, device, threads, seeds, time; plain values.
        identity: What makes this configuration another one, defaults left out; the whole ``config`` by default.

    Returns:
        The run.

    Raises:
        RunError: If the name is not allowed; the folder holds something else, or a run of another configuration (the
            message shows the difference); a file is damaged or cannot be written; another process makes it right now.
    """
    path = run_path(folder, name)
    identity = config if identity is None else identity
    if (path / MANIFEST).exists():
        run = open_run(path)
        difference = run.difference(identity)
        if difference:
            raise RunError(f"{path} holds a run of another configuration ({difference}); choose another folder or name")
        return run
    _make_folder(path)
    with locked(path):
        for file, content in ((CONFIG, config), (IDENTITY, identity), (PROVENANCE, provenance)):
            write_json(path / file, dict(content))
        create_database(path / RECORDS)
        Manifest(files={f: digest_of_file(path / f) for f in (CONFIG, IDENTITY, PROVENANCE)}).write(path)
    return FolderRun(path)


def open_run(path: Path | str) -> FolderRun:
    """Open a run's folder.

    Args:
        path: The folder.

    Returns:
        The run; records and spectra are checked when they are read.

    Raises:
        RunError: If there is no such folder, it is no run, or its settings or manifest are damaged.
    """
    path = Path(path).resolve()
    if not path.is_dir():
        raise RunError(f"there is no folder {path}; a run is a folder written by deepprobe train")
    return FolderRun(path)


def list_runs(folder: Path | str) -> pd.DataFrame:
    """Table of the runs in a folder, by name.

    Args:
        folder: Folder of runs, or a run itself.

    Returns:
        Frame with the columns COLUMNS. ``status`` is ``complete``, ``diverged``, ``interrupted``, ``running``,
        ``stopped`` or ``damaged``. ``stopped`` is found out here and stands in no manifest: the run's status is
        ``running``, but no process holds its lock, so the one that trained has died. ``epochs`` counts epochs in the
        records; ``test_accuracy`` is the last one, NaN if there is none.

    Raises:
        RunError: If there is no such folder.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}; runs are written by deepprobe train with --out")
    paths = [p for p in (folder, *sorted(folder.iterdir())) if (p / MANIFEST).is_file()]
    return pd.DataFrame([_summary(path) for path in paths], columns=list(COLUMNS))


def state_of(run: FolderRun) -> str:
    """A run's status, and ``stopped`` where that is ``running`` but no process holds the run's lock."""
    return "stopped" if run.status == "running" and not is_locked(run.path) else run.status


def _summary(path: Path) -> dict[str, Any]:
    """One row of ``list_runs``."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"name": path.name, "path": str(path), "status": "damaged"}
    row |= {"epochs": float("nan"), "test_accuracy": float("nan")}
    try:
        run = FolderRun(path)
        row |= {"model": _name_in(run.config, "model"), "data": _name_in(run.config, "data")}
        training = run.config.get("training")
        row["seed"] = training.get("seed") if isinstance(training, dict) else run.config.get("seed")
        row["epochs"], row["test_accuracy"] = run.last_values(split="test", measure="accuracy")
        row["status"] = state_of(run)
    except RunError:
        pass
    return row


def _name_in(config: Mapping[str, Any], key: str) -> str:
    """Name of the model or the data in a run's settings, or nothing."""
    value = config.get(key, "")
    return str(value.get("name", "") if isinstance(value, dict) else value)


def _make_folder(path: Path) -> None:
    """Make a run's folder, or take one that holds nothing but what an earlier attempt to make it left."""
    make_folder(path)
    try:
        found = {p.name for p in path.iterdir() if not p.name.endswith(ASIDE)}
    except OSError as error:
        raise RunError(f"cannot read the folder {path}: {error.strerror or error}") from error
    strange = sorted(found - {CONFIG, IDENTITY, PROVENANCE, RECORDS, f"{RECORDS}-journal", LOCK})
    if strange:
        raise RunError(f"{path} is not empty and holds no run (there is {strange[0]!r}); choose another folder or name")
