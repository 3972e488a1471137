"""What goes into a run comes out again, from a folder as from memory."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import RunError
from deepprobe.records.frame import TIDY, wide
from deepprobe.runs import MemoryRun, open_run


@pytest.fixture(params=["folder", "memory"])
def store(request, make, config):
    """An empty run of either kind."""
    return make() if request.param == "folder" else MemoryRun("a", config=config, provenance={})


def test_records_come_back_as_they_went_in(store, frames):
    metric_frame, layer_frame = frames
    parts = [metric_frame(0, accuracy=0.1, loss=float("inf"), other=float("nan")), layer_frame(0), layer_frame(7)]
    for part in parts:
        store.append(part)
    found = store.records()
    assert list(found.columns) == list(TIDY)
    expected = pd.concat([p.astype(object) for p in parts], ignore_index=True)
    for name in TIDY:
        for got, want in zip(found[name], expected[name], strict=True):
            assert (pd.isna(got) and pd.isna(want)) or got == want, name


def test_layers_are_the_wide_table_that_was_probed(store, frames):
    _, layer_frame = frames
    store.append(layer_frame(0))
    pd.testing.assert_frame_equal(store.layers(), wide(layer_frame(0)), check_dtype=False)
    assert store.layers()["condition_number"].tolist() == [2.0, np.inf]


def test_metrics_are_the_rows_of_no_layer(store, frames):
    metric_frame, layer_frame = frames
    store.append(layer_frame(0))
    store.append(metric_frame(5, accuracy=0.5))
    assert store.metrics()[["step", "measure", "value"]].to_numpy().tolist() == [[5, "accuracy", 0.5]]


def test_an_empty_run_has_empty_tables(store):
    assert store.records().empty
    assert store.layers().empty
    assert store.metrics().empty
    assert store.steps_probed() == []
    assert store.spectra_frame().columns.tolist() == ["step", "key", "position", "singular_value"]


def test_spectra_keep_hostile_keys_infinity_and_order(store):
    keys = ["output/channels/../../x", "<script>", 'quote"\\', "\u202e", "", "a" * 600]
    arrays = {key: np.array([np.inf, i + 0.1, np.nan, 1e-320]) for i, key in enumerate(keys)}
    store.save_spectra(12, arrays)
    store.save_spectra(3, {"empty": np.array([])})
    assert store.steps_probed() == [3, 12]
    found = store.spectra(12)
    assert list(found) == keys
    for key in keys:
        np.testing.assert_array_equal(found[key], arrays[key])
    assert len(store.spectra(3)["empty"]) == 0
    assert store.spectra_frame(12).groupby("key", sort=False)["position"].max().tolist() == [4] * 6


def test_spectra_of_a_step_are_replaced(store):
    store.save_spectra(1, {"a": [1.0], "b": [1.0]})
    store.save_spectra(1, {"a": [2.0]})
    assert {k: v.tolist() for k, v in store.spectra(1).items()} == {"a": [2.0]}


def test_a_step_that_was_not_probed_is_named_with_those_that_were(store):
    store.save_spectra(1, {"a": [1.0]})
    with pytest.raises(RunError, match=r"has no spectra of step 2; it has \[1\]$"):
        store.spectra(2)


def test_other_columns_are_refused(store):
    with pytest.raises(RunError) as error:
        store.append(pd.DataFrame({"value": [1.0], "colour": ["red"]}))
    missing = [c for c in TIDY if c != "value"]
    assert str(error.value) == f"records must have the columns TIDY; missing: {missing}, not known: ['colour']"


def test_a_status_that_is_none_is_refused(store):
    store.set_status("interrupted", "Ctrl-C")
    assert (store.status, store.message) == ("interrupted", "Ctrl-C")
    with pytest.raises(RunError) as error:
        store.set_status("done")
    expected = "no run has the status 'done'; there are running, interrupted, diverged, complete"
    assert str(error.value) == expected


def test_a_complete_run_takes_nothing_more(run, frames):
    run.set_status("complete")
    with pytest.raises(RunError, match="is complete; nothing can be added to it"):
        run.append(frames[0](20, loss=1.0))
    assert open_run(run.path).status == "complete"


def test_rewinding_keeps_what_was_known_at_that_step(run):
    before = run.records()
    (run.path / "spectra" / "step-00000099.safetensors").write_bytes(b"never listed")
    (run.path / ".records.1.aside").write_bytes(b"left by a killed process")
    run.rewind(0)
    again = open_run(run.path)
    pd.testing.assert_frame_equal(again.records(), before[before["step"] == 0].reset_index(drop=True))
    assert again.steps_probed() == [0]
    assert sorted(p.name for p in (run.path / "spectra").iterdir()) == ["step-00000000.safetensors"]
    assert [p.name for p in run.path.glob(".*")] == [".lock"]
    run.rewind(-1)
    assert run.records().empty


def test_a_run_in_memory_shows_its_name_and_status():
    run = MemoryRun("a", config={}, provenance={})
    run.set_status("complete")
    assert repr(run) == "MemoryRun('a', status='complete')"


def test_rows_of_other_types_fail_whole(run):
    before = run.records()
    frame = before.head(3).assign(value=[1.0, 2.0, object()])
    with pytest.raises((RunError, TypeError)):
        run.append(frame)
    pd.testing.assert_frame_equal(run.records(), before)


def test_units_stand_apart_from_layers(store):
    row = {"run": "r", "step": 1, "layer": "conv", "depth": 1, "call": 1, "centred": False, "value": 0.5}
    rows = [row | {"measure": "weight_norm"}, row | {"measure": "conductance", "unit": 3}]
    store.append(pd.DataFrame(rows).reindex(columns=list(TIDY)))
    assert store.layers()[["layer", "weight_norm"]].values.tolist() == [["conv", 0.5]]
    assert "conductance" not in store.layers()
    assert store.units()[["unit", "conductance"]].values.tolist() == [[3, 0.5]]


def test_records_from_before_there_were_units_are_read_and_gone_on_with(make):
    run = make()
    row = {"run": "r", "step": 1, "layer": "conv", "measure": "weight_norm", "centred": False, "value": 0.5}
    frame = pd.DataFrame([row]).reindex(columns=list(TIDY))
    run.append(frame)
    new = run.records()
    with closing(sqlite3.connect(run.path / "records.sqlite")) as connection, connection:
        connection.execute('ALTER TABLE records DROP COLUMN "unit"')  # what an earlier version wrote
    pd.testing.assert_frame_equal(run.records(), new)
    run.append(frame.assign(step=2, unit=5))
    assert run.records()["unit"].tolist()[1] == 5
    assert run.records()["step"].tolist() == [1, 2]
    run.rewind(1)
    assert run.records()["step"].tolist() == [1]
