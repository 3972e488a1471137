"""Since when units are in a state, against a loop over their history."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.records.frame import tidy, wide
from deepprobe.records.since import since_when


def history(seed=0):
    rng = np.random.default_rng(seed)
    steps = [0, 10, 20, 50, 100]
    return pd.DataFrame(
        [
            {
                "run": run, "layer": layer, "depth": depth, "call": 1, "tap": "input", "view": "channels", "unit": unit,
                "step": step, "epoch": step / 10, "firing_rate": 0.5,
                "dead": bool(rng.random() < 0.6), "saturated": bool(rng.random() < 0.3),
            }
            for run in ("a", "b") for layer, depth in (("x", 1), ("y", 2)) for unit in range(12) for step in steps
        ]
    )  # fmt: skip


def test_the_first_step_is_that_of_a_loop():
    table = history()
    found = since_when(table.sample(frac=1, random_state=1))
    expected = {}
    for (run, layer, unit), rows in table.groupby(["run", "layer", "unit"]):
        for state in ("dead", "saturated"):
            since = before = None
            for step, holds in zip(rows["step"], rows[state], strict=True):
                if not holds:
                    since, before = None, step
                elif since is None:
                    since = step
            if since is not None:
                expected[run, layer, unit, state] = (since, np.nan if before is None else before, before is None)
    keys = zip(found["run"], found["layer"], found["unit"], found["state"], strict=True)
    values = zip(found["since_step"], found["before_step"], found["always"], strict=True)
    got = dict(zip(keys, values, strict=True))
    assert len(got) == len(found) == len(expected) > 10
    for key, value in expected.items():
        np.testing.assert_equal(got[key], value)
    np.testing.assert_allclose(found["since_epoch"], found["since_step"] / 10)
    assert (found["n_looks"] == 5).all()


def test_the_table_of_a_run_will_do():
    table = history()
    back = wide(
        tidy(table.assign(type="Linear", dtype="float32", n_rows=5, n_features=12, sketched=False), split="probe")
    )
    columns = ["run", "layer", "unit", "state", "since_step"]
    pd.testing.assert_frame_equal(
        since_when(back)[columns].sort_values(columns, ignore_index=True),
        since_when(table)[columns].sort_values(columns, ignore_index=True), check_dtype=False,
    )  # fmt: skip


def test_nobody_ends_in_the_state():
    table = history().assign(dead=False, saturated=np.nan)
    assert since_when(table, ["dead"]).empty
    assert since_when(table).empty


def test_what_cannot_be_is_said():
    with pytest.raises(ConfigError, match="'asleep' is none of dead, constant"):
        since_when(history(), ["asleep"])
    with pytest.raises(ShapeError, match="lacks rare: record them with UnitCallback"):
        since_when(history(), ["rare"])
    with pytest.raises(ShapeError, match="lacks step"):
        since_when(history().drop(columns="step"))
    with pytest.raises(ShapeError, match="lacks all states"):
        since_when(history()[["layer", "unit", "step"]])
