"""The page lists every rule as it is."""

from pathlib import Path

from deepprobe.diagnosis.autopsy.rules import RULES, rules_table
from deepprobe.reports.results_page import markdown_table

PAGE = Path(__file__).parents[3] / "docs" / "autopsy.md"


def test_the_page_lists_the_rules_as_they_are():
    assert markdown_table(rules_table()) in PAGE.read_text(encoding="utf-8")
    assert len({rule.name for rule in RULES}) == len(RULES)
