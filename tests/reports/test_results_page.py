"""Numbers go between a page's marks, and nowhere else."""

from __future__ import annotations

from deepprobe.reports import write_between_marks


def test_only_what_stands_between_the_marks_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n<!-- numbers: begin -->\nold\n<!-- numbers: end -->\nThe end.\n", encoding="utf-8")
    write_between_marks(page, "| new |")
    text = page.read_text(encoding="utf-8")
    assert text == "# Title\n<!-- numbers: begin -->\n\n| new |\n<!-- numbers: end -->\nThe end.\n"
    write_between_marks(page, "| new |")
    assert page.read_text(encoding="utf-8") == text


def test_a_page_that_is_not_there_is_made(tmp_path):
    assert "| new |" in write_between_marks(tmp_path / "new" / "page.md", "| new |").read_text(encoding="utf-8")
