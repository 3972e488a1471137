"""Findings as a table."""

from __future__ import annotations

from deepprobe.records.finding import COLUMNS, Finding, findings_table


def found(rule: str, severity: float) -> Finding:
    return Finding(rule, severity, "It is ill.", "conv1", 1, "rms", 1e9, 1e3, "somebody", "rest")


def test_the_most_severe_comes_first_and_equals_stay_in_order() -> None:
    table = findings_table([found("a", 0.5), found("b", 0.9), found("c", 0.5)])
    assert table[["rank", "rule"]].values.tolist() == [[1, "b"], [2, "a"], [3, "c"]]


def test_no_finding_is_an_empty_table() -> None:
    assert list(findings_table([]).columns) == list(COLUMNS)
    assert findings_table([]).empty
