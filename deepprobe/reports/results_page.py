"""Numbers of an analysis on a page of Markdown: tables, and what they were made on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepprobe.runs.atomic import make_folder, write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

BEGIN, END = "<!-- numbers: begin -->", "<!-- numbers: end -->"
"""Marks on a page, between which an analysis writes."""


def markdown_table(table: pd.DataFrame) -> str:
    r"""A table in Markdown, its values as text; a bar in a cell is escaped.

    Example:
        >>> import pandas as pd
        >>> print(markdown_table(pd.DataFrame({"network": ["a|b"], "n": [3]})))
        | network | n |
        | --- | --- |
        | a\|b | 3 |
    """
    cells = [[str(v).replace("|", "\\|") for v in row] for row in table.to_numpy(dtype=object).tolist()]
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: pd.Series, text: str, *, factor: float = 1.0) -> str:
    """Mean of the known values with the lowest and the highest, as over seeds.

    Args:
        values: Numbers; NaN is left out.
        text: Format of a number, as ``".2f"``.
        factor: What they are multiplied by first.

    Example:
        >>> import pandas as pd
        >>> spread(pd.Series([0.5, 0.25]), ".1f", factor=100)
        '37.5 (25.0–50.0)'
    """
    known = values.dropna() * factor
    if known.empty:
        return "–"
    mean, low, high = (format(v, text) for v in (known.mean(), known.min(), known.max()))
    return mean if low == high else f"{mean} ({low}–{high})"


def made_on(provenance: Mapping[str, Any]) -> str:
    """A sentence on the machine and the versions that a run was made with."""
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items() if version)
    commit = f"; commit {provenance['commit'][:10]}" if provenance["commit"] else ""
    threads = f"{provenance['threads']} thread{'s' * (provenance['threads'] != 1)}"
    where = f"{provenance['device']} ({provenance['processor']})"
    return f"On {where}, {threads}; Python {provenance['python']}, {versions}{commit}."


def write_between_marks(page: str | Path, numbers: str) -> Path:
    """Put text between a page's two marks, in place of what stood there; a page that is not there is made of them.

    Args:
        page: A Markdown file.
        numbers: What to write.

    Returns:
        The page.

    Raises:
        RunError: If it cannot be written.
    """
    page = Path(page)
    text = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    make_folder(page.parent)
    write_bytes(page, f"{before}{BEGIN}\n\n{numbers}\n{END}{rest.partition(END)[2]}".encode())
    return page
