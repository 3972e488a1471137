"""Since when a unit is what it is at the end: dead, saturated, a copy of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.records.frame import UNIT

if TYPE_CHECKING:
    from collections.abc import Sequence

STATES = ("dead", "constant", "rare", "saturated", "duplicate", "nonfinite")
"""What a unit can be, columns of ``unit_profiles``, true or false."""

_UNIT = ("run", "layer", "depth", "call", "tap", "view", UNIT)


def since_when(units: pd.DataFrame, states: Sequence[str] | None = None) -> pd.DataFrame:
    """The first look from which on a unit stays in a state until the last one, for every unit that ends in it.

    A unit that was dead, fired again and is dead at the end counts from its second death. Between two looks nothing is
    known: it entered the state after ``before_step`` and not later than ``since_step``.

    Args:
        units: What a run's ``units()`` gives, or tables of ``unit_profiles`` with a column ``step``.
        states: Some of STATES; by default all that the table has.

    Returns:
        One row a unit and state, by depth: ``run layer depth call tap view unit`` as far as the table has them,
        ``state``, ``since_step``, ``before_step`` (the last look at which it was not in that state, NaN if it always
        was), ``since_epoch`` where epochs are known, ``n_looks`` and ``always`` (from the first look on).

    Raises:
        ConfigError: If a state is none of STATES.
        ShapeError: If the table lacks ``layer``, ``unit``, ``step`` or the states.

    Example:
        >>> looks = pd.DataFrame({"layer": "a", "unit": 0, "step": [0, 1, 2, 3], "dead": [True, False, True, True]})
        >>> since_when(looks)[["unit", "state", "since_step", "before_step"]].values.tolist()
        [[0, 'dead', 2, 1.0]]
    """
    unknown = [state for state in states or () if state not in STATES]
    if unknown:
        raise ConfigError(f"states={list(states or ())!r}: {unknown[0]!r} is none of {', '.join(STATES)}")
    wanted = [state for state in STATES if (state in units if states is None else state in states)]
    missing = [column for column in ("layer", UNIT, "step", *wanted) if column not in units]
    if missing or not wanted:
        raise ShapeError(
            f"the table of units lacks {', '.join(missing) or 'all states'}: record them with UnitCallback, or join "
            "tables of unit_profiles that were given a column 'step'"
        )
    keys = [column for column in _UNIT if column in units]
    table = units.sort_values("step", kind="stable")
    parts = [_since(table, state, keys) for state in wanted]
    order = [column for column in ("depth", "layer", UNIT) if column in keys]
    return pd.concat(parts, ignore_index=True).sort_values(order, kind="stable", ignore_index=True)


def _since(table: pd.DataFrame, state: str, keys: list[str]) -> pd.DataFrame:
    """Rows of one state."""
    known = table[table[state].notna()]
    row = known.groupby(keys, dropna=False, sort=False).ngroup()
    holds = known[state].to_numpy(dtype="float64") > 0
    later_without = pd.Series(~holds, index=known.index)[::-1].groupby(row[::-1]).cumsum()[::-1].to_numpy()
    stays = known[later_without == 0]
    left = known[~holds].assign(_row=row[~holds]).groupby("_row")["step"].max()
    first = stays.assign(_row=row[stays.index]).drop_duplicates("_row")
    found = pd.DataFrame(first[keys])
    found["state"], found["since_step"] = state, first["step"]
    found["before_step"] = first["_row"].map(left).astype("float64")
    if "epoch" in table:
        found["since_epoch"] = first["epoch"]
    found["n_looks"], found["always"] = first["_row"].map(row.value_counts()), found["before_step"].isna()
    return found
