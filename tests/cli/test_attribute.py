"""``deepprobe attribute`` on a few digits."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from deepprobe.cli import main

WORDS = ["attribute", "resnet8", "--samples", "8", "--n-steps", "2"]


def test_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--layers", "features.stage3.*.conv?", "--method", "grad-cam", "--target", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["depth", "layer", "type", "n_features", "gini", "top_1_share", "top_5_share",
                                "top_10_share", "total"]  # fmt: skip
    assert [line.split()[1] for line in lines[1:]] == ["features.stage3.0.conv1", "features.stage3.0.conv2"]


def test_files_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, figure = tmp_path / "new" / "units.csv", tmp_path / "figure.svg"
    words = [*WORDS, "--method", "conductance", "gradient-x-activation", "--out", str(table), "--figure", str(figure)]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("250 units of 8 layers: ")
    units = pd.read_csv(table)
    assert len(units) == 250
    assert {"conductance", "conductance_se", "gradient_x_activation", "weight_magnitude"} <= set(units)
    assert "<svg" in figure.read_text()


def test_mistakes_are_told_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--figure", "a.gif"]) == 2
    assert "--figure a.gif: the file must end in .png, .svg or .pdf" in capsys.readouterr().err
    assert main([*WORDS, "--target", "10"]) == 2
    assert "target=10 is no class of this model" in capsys.readouterr().err
    assert main([*WORDS, "--layers", "stage9"]) == 1
    assert "matches nothing" in capsys.readouterr().err
