"""The deepest network of the literature trains, resumes its weights and is probed like any other."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import deepprobe as dp
from deepprobe.cli import main


@pytest.mark.slow
def test_1202_layers(tmp_path: Path) -> None:
    words = ["resnet1202", "--limit", "32", "--epochs", "1", "--batch-size", "16", "--validation-share", "0"]
    probes = ["--probe-every", "at 2it", "--probe-samples", "16", "--tap", "block", "--view", "samples"]
    assert main(["train", *words, *probes, "--out", str(tmp_path), "--quiet"]) == 0
    run = dp.open_run(tmp_path / "resnet1202-seed0")
    assert run.status == "complete"
    layers = run.layers()
    assert layers[layers["tap"] == "block"]["depth"].max() == 1201
    assert (layers["tap"] == "weight").sum() == 1202
    table, page = tmp_path / "layers.csv", tmp_path / "report.html"
    assert main(["report", str(tmp_path), "--html", str(page), "--quiet"]) == 0
    assert 10_000 < page.stat().st_size < 20_000_000
    taps = ["--tap", "input", "--view", "channels", "--rows", "4"]
    assert main(["probe", str(run.path), "--samples", "16", *taps, "--out", str(table), "--quiet"]) == 0
    assert len(pd.read_csv(table)) == 1202
