import csv
import io

import numpy as np
import pandas as pd
import pytest

from deepprobe.reports import summary, write_tables
from deepprobe.reports.source import layer_table
from deepprobe.reports.tables import COLUMNS, SUMMARY, stages, to_csv


def test_summary_has_a_row_a_network_tap_and_view(make_table):
    table = summary(
        {"plain": make_table("ffcc"), "res": pd.concat([make_table("ff"), make_table("fd", view="samples")])}
    )
    assert list(table.columns) == list(SUMMARY)
    assert list(zip(table["network"], table["view"], strict=True)) == [
        ("plain", "channels"), ("res", "samples"), ("res", "channels"),
    ]  # fmt: skip
    row = table.iloc[0]
    assert (row["n_layers"], row["finite"], row["collapsed"], row["onset_live"]) == (4, 2, 2, 3)
    assert (table.iloc[1]["structural"], table.iloc[1]["onset"]) == (1, 2)
    assert np.isnan(table.iloc[1]["onset_live"])


def test_summary_of_runs_is_their_mean_and_an_onset_needs_all(make_run, make_table):
    config = {"model": {"name": "net"}}
    runs = [
        make_run("a", {1: make_table("fccc")}, config={**config, "seed": 0}, accuracy=0.5),
        make_run("b", {1: make_table("ffcc")}, config={**config, "seed": 1}, accuracy=0.7),
    ]
    (row,) = summary(runs).to_dict("records")
    assert (row["network"], row["n_runs"], row["finite"], row["onset_live"]) == ("net", 2, 1.5, 2.5)
    assert row["accuracy"] == pytest.approx(0.6)
    runs.append(make_run("c", {1: make_table("ffff")}, config={**config, "seed": 2}))
    assert np.isnan(summary(runs)["onset_live"].iloc[0])


def test_runs_that_differ_in_more_than_the_seed_are_networks_of_their_own(make_run, make_table):
    runs = [
        make_run("a", {1: make_table("f")}, config={"model": {"name": "net"}, "training": {"lr": lr, "seed": seed}})
        for lr, seed in ((0.1, 0), (0.1, 1), (0.01, 0))
    ]
    table = summary(runs)
    assert list(table["network"]) == ["net", "net (2)"]
    assert list(table["n_runs"]) == [2, 1]


def test_nothing_has_an_empty_summary():
    assert list(summary([]).columns) == list(SUMMARY)
    assert len(summary(pd.DataFrame())) == 0


def test_stages_follow_the_names_and_the_depth(make_table):
    parts = stages(layer_table(make_table("f" * 50 + "c" * 10)))
    assert [p.name for p in parts] == ["features.stage1", "features.stage2", "features.stage3"]
    assert parts[2].summary == ("depths 41–60, 20 layers: 10 finite, 10 singular at this precision, κ 10")
    assert all(len(row) == len(COLUMNS) for p in parts for row in p.rows)
    assert [row[0].text for row in parts[0].rows[:3]] == ["1", "2", "3"]


def test_cells_sort_by_numbers_that_javascript_reads(make_table):
    ((row,),) = [p.rows for p in stages(layer_table(make_table("c")))]
    cells = dict(zip(COLUMNS, row, strict=True))
    assert (cells["κ"].text, cells["κ"].sort) == (f"≥ {cells['κ at least'].text}", "Infinity")
    ((row,),) = [p.rows for p in stages(layer_table(make_table("d")))]
    assert dict(zip(COLUMNS, row, strict=True))["κ"].text == "infinite"
    ((row,),) = [p.rows for p in stages(layer_table(make_table("c")))]
    assert (cells["status"].text, cells["status"].sort) == ("singular at this precision", "")
    ((row,),) = [p.rows for p in stages(layer_table(make_table("n")))]
    assert dict(zip(COLUMNS, row, strict=True))["κ"].sort == "NaN"


@pytest.mark.parametrize(
    "text", ["=cmd()", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", " =1", '"=1', "'=1", "＝1", "\n=1"]
)
def test_no_spreadsheet_executes_a_cell(text):
    ((_,), (cell,)) = csv.reader(io.StringIO(to_csv(pd.DataFrame({"a": [text]}))))
    assert not cell.lstrip(' "').startswith(("=", "+", "-", "@", "＝", "\t", "\r", "\n"))


def test_numbers_keep_their_sign_and_infinity():
    frame = pd.DataFrame({"a": [-1.5, np.inf, np.nan, 3.0], "b": [True, False, True, False], "c": [-1, 2, 3, 4]})
    assert to_csv(frame) == "a,b,c\n-1.5,True,-1\ninf,False,2\n,True,3\n3,False,4\n"


def test_tables_are_written_beside_each_other_and_read_back(make_run, make_table, tmp_path):
    run = make_run("net", {0: make_table("fcd"), 5: make_table("fcu")}, accuracy=0.9)
    paths = write_tables(run, tmp_path / "new" / "tables")
    assert [p.name for p in paths] == ["layers.csv", "metrics.csv", "summary.csv"]
    layers = pd.read_csv(paths[0])
    assert len(layers) == 6
    assert np.isinf(layers["condition_number"]).sum() == 3
    assert list(layers["step"]) == [0, 0, 0, 5, 5, 5]
    assert len(pd.read_csv(paths[1])) == len(run.metrics())
    assert len(pd.read_csv(paths[2])) == 1


def test_tables_of_nothing_have_headings(tmp_path):
    for path in write_tables([], tmp_path):
        assert len(path.read_text().splitlines()) == 1
