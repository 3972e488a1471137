"""``deepprobe diagnose``, end to end, on a few digits."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from deepprobe.cli import main

FEW = ["--samples", "32", "--quiet"]


def test_findings_are_printed_with_their_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "lenet300_100", "--lr", "1000", *FEW]) == 0
    shown = capsys.readouterr().out
    assert "update-too-large" in shown
    assert "threshold 1 " in shown
    assert "→ Lower the learning rate" in shown


def test_a_table_and_a_page_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, html = tmp_path / "found" / "findings.csv", tmp_path / "page.html"
    assert main(["diagnose", "resnet8", "--lr", "1000", "--out", str(out), "--html", str(html), *FEW]) == 0
    assert capsys.readouterr().out == ""
    table = pd.read_csv(out)
    assert table["rank"].tolist() == list(range(1, len(table) + 1))
    assert "update-too-large" in set(table["rule"])
    page = html.read_text(encoding="utf-8")
    assert "Diagnosis of resnet8" in page
    assert "update too large" in page


@pytest.mark.parametrize("words", [["--lr", "0"], ["--lr", "nan"], ["--batch-size", "0"]])
def test_impossible_options_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "resnet8", *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_an_unknown_network_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "resnt20"]) == 1
    assert "did you mean" in capsys.readouterr().err


def test_what_was_written_is_counted_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "findings.csv"
    main(["diagnose", "resnet20", "--data", "digits", "--samples", "32", "--out", str(out)])
    n = len(out.read_text().splitlines()) - 1
    assert capsys.readouterr().out.startswith(f"{n} finding: " if n == 1 else f"{n} findings: ")
