"""The records of a run: one table of tidy rows in SQLite.

One append is one transaction, so a killed process leaves all of it or nothing. Each append carries the SHA-256 of its
rows, because SQLite promises atomicity but does not notice a flipped byte. SQLite keeps infinity; NaN is NULL there.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepprobe.errors import RunError
from deepprobe.records.frame import TIDY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_REAL = {"value", "low", "high", "epoch"}
_INTEGER = {"seed", "round", "step", "depth", "call", "centred", "n_rows", "n_features", "sketched"}
_FLAGS = ("centred", "sketched")
_TYPES = {c: "REAL" if c in _REAL else "INTEGER" if c in _INTEGER else "TEXT" for c in TIDY}
_COLUMNS = ", ".join(f'"{c}"' for c in TIDY)
_DECLARED = ", ".join(f'"{c}" {t}' for c, t in _TYPES.items())
_TABLES = (
    "CREATE TABLE appends (id INTEGER PRIMARY KEY, step INTEGER, n_rows INTEGER NOT NULL, sha256 TEXT NOT NULL)",
    f"CREATE TABLE records (append_id INTEGER NOT NULL, {_DECLARED})",
)


def create_database(path: Path) -> None:
    """Make an empty database of records; RunError if it cannot be written."""
    path.unlink(missing_ok=True)
    with _transaction(path) as connection:
        for statement in _TABLES:
            connection.execute(statement)


def append_rows(path: Path, frame: pd.DataFrame) -> None:
    """Append the rows of a tidy frame, all or none.

    Args:
        path: The database.
        frame: Columns TIDY.

    Raises:
        RunError: If the frame has other columns, or the database cannot be written.
    """
    rows = rows_of(frame)
    steps = [row[TIDY.index("step")] for row in rows if row[TIDY.index("step")] is not None]
    with _transaction(path) as connection:
        cursor = connection.execute(
            "INSERT INTO appends (step, n_rows, sha256) VALUES (?, ?, ?)",
            (max(steps, default=None), len(rows), _digest(rows)),
        )
        marks = ", ".join("?" * (len(TIDY) + 1))
        connection.executemany(f"INSERT INTO records VALUES ({marks})", ((cursor.lastrowid, *row) for row in rows))


def delete_after(path: Path, step: int) -> None:
    """Delete every append that says something of a later step; RunError if the database cannot be written."""
    with _transaction(path) as connection:
        connection.execute("DELETE FROM records WHERE append_id IN (SELECT id FROM appends WHERE step > ?)", (step,))
        connection.execute("DELETE FROM appends WHERE step > ?", (step,))


def read_rows(path: Path) -> pd.DataFrame:
    """All rows in the order in which they were appended.

    Args:
        path: The database.

    Returns:
        Frame with the columns TIDY.

    Raises:
        RunError: If the file is missing or damaged, or rows are not those that were appended.
    """
    with _reading(path) as connection:
        expected = {i: (n, digest) for i, n, digest in connection.execute("SELECT id, n_rows, sha256 FROM appends")}
        found = connection.execute(f"SELECT append_id, {_COLUMNS} FROM records ORDER BY append_id, rowid").fetchall()
    rows = []
    for append_id, group in groupby(found, key=lambda row: row[0]):
        part = [row[1:] for row in group]
        if expected.pop(append_id, None) != (len(part), _digest(part)):
            raise RunError(f"{path} is damaged: the rows of append {append_id} are not those that were written")
        rows += part
    missing = [i for i, (n, _) in expected.items() if n]
    if missing:
        raise RunError(f"{path} is damaged: the rows of append {missing[0]} are gone")
    return frame_of(rows)


def last_value(path: Path, *, split: str, measure: str) -> float:
    """The value of a training metric at the latest step, NaN if there is none; RunError if the file is damaged."""
    query = "SELECT value FROM records WHERE split = ? AND measure = ? AND layer IS NULL ORDER BY step DESC LIMIT 1"
    with _reading(path) as connection:
        row = connection.execute(query, (split, measure)).fetchone()
    return float("nan") if row is None or row[0] is None else float(row[0])


def last_step(path: Path) -> tuple[int, float]:
    """Latest step and epoch in the records, (0, 0.0) if there is none; RunError if the file is damaged."""
    with _reading(path) as connection:
        row = connection.execute("SELECT step, epoch FROM records ORDER BY step DESC LIMIT 1").fetchone()
    return (0, 0.0) if row is None or row[0] is None else (int(row[0]), float(row[1] or 0))


def rows_of(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Rows of a tidy frame as plain numbers, text and None (for NaN); RunError if its columns are others."""
    if list(frame.columns) != list(TIDY):
        missing = [c for c in TIDY if c not in frame.columns]
        extra = [c for c in frame.columns if c not in TIDY]
        raise RunError(f"records must have the columns TIDY; missing: {missing}, not known: {extra}")
    convert = {"REAL": float, "INTEGER": int, "TEXT": str}
    columns = []
    for name in TIDY:
        to = convert[_TYPES[name]]
        values = frame[name].astype(object)
        columns.append([None if null else to(v) for v, null in zip(values, frame[name].isna(), strict=True)])
    return list(zip(*columns, strict=True))


def frame_of(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Tidy frame of plain rows; the inverse of ``rows_of``."""
    frame = pd.DataFrame.from_records(rows, columns=list(TIDY))
    for name in _REAL:
        frame[name] = frame[name].astype("float64")
    for name in _INTEGER - set(_FLAGS):
        values = frame[name].astype("float64") if frame[name].isna().any() else frame[name].astype("int64")
        frame[name] = values
    for name in _FLAGS:
        flags = np.array([None if pd.isna(v) else bool(v) for v in frame[name]], dtype=object)
        frame[name] = flags if any(f is None for f in flags) else flags.astype(bool)
    for name, kind in _TYPES.items():
        if kind == "TEXT":
            frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


@contextmanager
def _transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection whose changes all happen, or none; SQLite's errors become RunError."""
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            with connection:
                yield connection
    except (sqlite3.Error, OSError) as error:
        raise RunError(f"cannot write {path}: {error}; the records before are untouched") from error


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to read with; SQLite's errors become RunError."""
    if not path.is_file():
        raise RunError(f"{path} is missing; every run has one")
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            yield connection
    except (sqlite3.Error, OverflowError, UnicodeDecodeError, TypeError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is damaged: expected an SQLite database of records, found {error}") from error


def _digest(rows: list[tuple[Any, ...]]) -> str:
    """SHA-256 of plain rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
