"""The records of a run: one table of tidy rows in SQLite.

One append is one transaction, so a killed process leaves all of it or nothing. Each append carries the SHA-256 of its
rows, because SQLite promises atomicity but does not notice a flipped byte. SQLite keeps infinity; NaN is NULL there.
Every reading goes through every digest, and takes only the two tables that are made here: a file that was made by
somebody else may hold views without end, or values larger than itself.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepprobe.errors import RunError
from deepprobe.records.frame import TIDY, UNIT
from deepprobe.runs.atomic import remove_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_REAL = {"value", "low", "high", "epoch"}
_INTEGER = {"seed", "round", "step", "depth", "call", "centred", "n_rows", "n_features", "sketched", UNIT}
_FLAGS = ("centred", "sketched")
_TYPES = {c: "REAL" if c in _REAL else "INTEGER" if c in _INTEGER else "TEXT" for c in TIDY}
_COLUMNS = ", ".join(f'"{c}"' for c in TIDY)
_DECLARED = ", ".join(f'"{c}" {t}' for c, t in _TYPES.items())
_TABLES = (
    "CREATE TABLE appends (id INTEGER PRIMARY KEY, step INTEGER, n_rows INTEGER NOT NULL, sha256 TEXT NOT NULL)",
    f"CREATE TABLE records (append_id INTEGER NOT NULL, {_DECLARED})",
)
_UNIT_COLUMN = f'"{UNIT}" INTEGER'
_TABLES_WITHOUT_UNITS = (_TABLES[0], _TABLES[1].replace(f", {_UNIT_COLUMN})", ")"))
"""What runs were made of before there were numbers of units."""

_STEP = TIDY.index("step")
_EMPTY = [None, 0, hashlib.sha256().hexdigest()]
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
SMALLEST_ROW = len(TIDY)
"""Bytes that a row takes at least in the file; what claims to hold more rows than fit is not read to its end."""
LARGEST_VALUE = 2**20
"""Bytes of the largest text in a row."""


def create_database(path: Path) -> None:
    """Make an empty database of records; RunError if it cannot be written."""
    remove_file(path)
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
    with _transaction(path) as connection:
        if _schema(connection) == _TABLES_WITHOUT_UNITS:
            connection.execute(f"ALTER TABLE records ADD COLUMN {_UNIT_COLUMN}")
        cursor = connection.execute(
            "INSERT INTO appends (step, n_rows, sha256) VALUES (?, ?, ?)",
            (_last_step(rows), len(rows), _digest(rows)),
        )
        marks = ", ".join("?" * (len(TIDY) + 1))
        connection.executemany(f"INSERT INTO records VALUES ({marks})", ((cursor.lastrowid, *row) for row in rows))


def delete_after(path: Path, step: int) -> None:
    """Delete every append that says something of a later step.

    Args:
        path: The database.
        step: Last step to keep.

    Raises:
        RunError: If the database is damaged (nothing is deleted then) or cannot be written.
    """
    with _transaction(path) as connection:
        for _ in _appends(connection, path):
            pass
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
        return frame_of([row for part in _appends(connection, path) for row in part])


def last_values(path: Path, *, split: str, measure: str) -> tuple[float, float]:
    """Epochs in the records, and the value of a training metric at the latest step.

    Args:
        path: The database.
        split: Split of the metric.
        measure: Its name.

    Returns:
        (epochs, value): 0.0 where there are no records, NaN where there is no such metric.

    Raises:
        RunError: As ``read_rows``.
    """
    at = {name: TIDY.index(name) for name in ("step", "epoch", "split", "measure", "layer", "value")}
    epochs, step, value = 0.0, -1, float("nan")
    with _reading(path) as connection:
        for row in (row for part in _appends(connection, path) for row in part):
            epochs = max(epochs, row[at["epoch"]] or 0.0)
            is_it = (row[at["split"]], row[at["measure"]], row[at["layer"]]) == (split, measure, None)
            if is_it and (row[at["step"]] or 0) >= step:
                step, found = row[at["step"]] or 0, row[at["value"]]
                value = float("nan") if found is None else float(found)
    return epochs, value


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
        values = frame[name].to_numpy(dtype=object)
        columns.append([None if null else to(v) for v, null in zip(values, pd.isna(values), strict=True)])
    return list(zip(*columns, strict=True))


def frame_of(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Tidy frame of plain rows; the inverse of ``rows_of``."""
    columns = zip(*rows, strict=True) if rows else [()] * len(TIDY)
    return pd.DataFrame({name: _array_of(name, values) for name, values in zip(TIDY, columns, strict=True)})


def _array_of(name: str, values: Sequence[Any]) -> NDArray[Any] | pd.Series:
    """A column's values in the type that the tidy frame has: integers and flags only where none is missing."""
    missing = any(value is None for value in values)
    if name in _FLAGS:
        flags = [None if value is None else bool(value) for value in values]
        return np.array(flags, dtype=object if missing else bool)
    if _TYPES[name] == "TEXT":
        return pd.Series(values, dtype=object)  # an array of text would become another kind
    return np.array(values, dtype="int64" if name in _INTEGER and not missing else "float64")  # None becomes NaN


def _appends(connection: sqlite3.Connection, path: Path) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of one append after the other, each as it was written; RunError at the first that is not."""
    columns = _COLUMNS if _checked_schema(connection, path) == _TABLES else _COLUMNS.replace(f'"{UNIT}"', "NULL")
    largest = path.stat().st_size // SMALLEST_ROW
    query = "SELECT id, step, n_rows, sha256 FROM appends LIMIT ?"
    expected = {i: row for i, *row in connection.execute(query, (largest + 1,))}
    found = connection.execute(f"SELECT append_id, {columns} FROM records LIMIT ?", (largest + 1,))
    for append_id, group in groupby(found, key=lambda row: row[0]):
        part = [row[1:] for row in group]
        if expected.pop(append_id, None) != [_last_step(part), len(part), _digest(part)]:
            raise RunError(f"{path} is damaged: the rows of append {append_id} are not those that were written")
        yield part
    missing = [i for i, row in expected.items() if row != _EMPTY]
    if missing:
        raise RunError(f"{path} is damaged: the rows of append {missing[0]} are gone")


def _checked_schema(connection: sqlite3.Connection, path: Path) -> tuple[str, ...]:
    """What a database is made of; refused if that is not the two tables that are made here, and nothing else."""
    found = _schema(connection)
    if found not in {_TABLES, _TABLES_WITHOUT_UNITS}:
        raise RunError(f"{path} is damaged: expected the tables 'appends' and 'records' alone, found other definitions")
    return found


def _schema(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The statements that made a database's tables; empty where it holds anything else."""
    found = connection.execute("SELECT type, sql FROM sqlite_master ORDER BY rowid LIMIT 3").fetchall()
    return tuple(sql for _, sql in found) if all(kind == "table" for kind, _ in found) else ()


def _last_step(rows: list[tuple[Any, ...]]) -> int | None:
    """The latest step that plain rows speak of, None if of none."""
    return max((row[_STEP] for row in rows if isinstance(row[_STEP], int)), default=None)


@contextmanager
def _transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection whose changes all happen, or none; SQLite's errors become RunError."""
    try:
        with closing(_connected(path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            with connection:
                yield connection
    except (sqlite3.OperationalError, OSError) as error:
        raise RunError(f"cannot write {path}: {error}; the records before are untouched") from error
    except sqlite3.Error as error:
        raise RunError(f"{path} is damaged: expected an SQLite database of records, found {error}") from error


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees one moment of the database; SQLite's errors become RunError."""
    if not path.is_file():
        raise RunError(f"{path} is missing; every run has one")
    try:
        with closing(_connected(path)) as connection:
            connection.execute("BEGIN")
            yield connection
    except RunError:
        raise
    except (sqlite3.Error, OSError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"{path} is damaged or cannot be read: expected an SQLite database, found {error}") from error


def _connected(path: Path) -> sqlite3.Connection:
    """A connection that trusts nothing that the file says of itself."""
    _check_journal(path.with_name(f"{path.name}-journal"))
    connection = sqlite3.connect(path, timeout=30)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _check_journal(journal: Path) -> None:
    """Refuse a journal that ends with the name of another file: SQLite would delete that file, wherever it is."""
    try:
        with journal.open("rb") as file:
            file.seek(-len(_JOURNAL_MAGIC), os.SEEK_END)
            names_another = file.read() == _JOURNAL_MAGIC
    except OSError:  # none, or shorter
        return
    if names_another:
        raise RunError(f"{journal} is refused: it belongs to several databases at once, and no run's journal does")


def _digest(rows: list[tuple[Any, ...]]) -> str:
    """SHA-256 of plain rows, of whole layers as they were before there was a column of units."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row if row[-1] is not None else row[:-1]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
