"""Every analysis runs from top to bottom at its smallest scale."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ANALYSES = sorted((Path(__file__).parents[2] / "analyses").glob("[0-9]*.py"))


@pytest.mark.parametrize("path", ANALYSES, ids=lambda path: path.stem)
def test_smoke(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(path), "--smoke", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=None, timeout=240)
    assert done.returncode == 0, done.stderr
    pages = [*(tmp_path / "out").glob("*.html"), *(tmp_path / "out").glob("*.md")]
    assert max(page.stat().st_size for page in pages) > 1000
