"""Every command that README and the pages show is understood, and the page of training runs."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from deepprobe.cli import VERBS
from deepprobe.cli.options import parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "analyses").rglob("*.toml"))]
COMMAND = re.compile(r"^(?:#\s+)?(?:DEEPPROBE_DATA=\S+ |torchrun .*-m )?deepprobe (.+)$", flags=re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Words after ``deepprobe`` of every command that a page shows."""
    return [shlex.split(line, comments=True) for line in COMMAND.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page: Path) -> None:
    for verb, *words in commands(page):
        assert verb in VERBS
        parse(getattr(import_module(f"deepprobe.cli.{verb}"), f"{verb.capitalize()}Options"), words, verb=verb)


def test_commands_are_found() -> None:
    found = commands(ROOT / "docs" / "training.md")
    assert ["train", "--resume", "runs"] in found
    assert sum("--nproc-per-node" in words for words in found) == 0
    assert len(found) >= 6


def test_the_example_of_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(
        compile("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)), "training", "exec"),
        names,
    )
    assert names["run"].status == "complete"  # type: ignore[attr-defined]
    assert set(names["run"].layers()["tap"]) == {"block", "input"}  # type: ignore[attr-defined]


def test_links_of_pages_lead_somewhere() -> None:
    for page in PAGES[1:]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
