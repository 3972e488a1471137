"""The page lists every rule as the register has it."""

from __future__ import annotations

from pathlib import Path

from deepprobe.diagnosis import RULES, rules_table
from deepprobe.reports import markdown_table

PAGE = Path(__file__).parents[2] / "docs" / "diagnosis.md"


def test_the_page_lists_the_rules_as_they_are() -> None:
    """Where it fails: ``reports.write_between_marks("docs/diagnosis.md", markdown_table(rules_table()))``."""
    assert markdown_table(rules_table()) in PAGE.read_text(encoding="utf-8")


def test_the_table_has_a_row_a_rule() -> None:
    assert rules_table()["rule"].tolist() == [rule.name for rule in RULES]
