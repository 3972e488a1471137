"""The page lists every rule as it is, and its example runs as written."""

import re
from pathlib import Path

from deepprobe.diagnosis.autopsy.rules import RULES, rules_table
from deepprobe.reports.results_page import markdown_table

PAGE = (Path(__file__).parents[3] / "docs" / "autopsy.md").read_text(encoding="utf-8")


def test_the_page_lists_the_rules_as_they_are():
    assert markdown_table(rules_table()) in PAGE
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    exec(compile(example, "autopsy.md", "exec"), names)
    assert names["found"].steps["step"].max() == 5
    assert (tmp_path / "autopsy.png").read_bytes().startswith(b"\x89PNG")
