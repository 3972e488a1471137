"""Every command that README and the pages show is understood, and the page of training runs."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from deepprobe.cli import VERBS
from deepprobe.cli.options import parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "analyses").rglob("*.toml"))]
COMMAND = re.compile(r"^(?:#\s+)?(?:DEEPPROBE_DATA=\S+ |torchrun .*-m )?deepprobe (.+)$", flags=re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Words after ``deepprobe`` of every command that a page shows."""
    text = re.sub(r"\\\n#?\s*", "", page.read_text(encoding="utf-8"))  # a command may go on in the next line
    return [shlex.split(line, comments=True) for line in COMMAND.findall(text)]


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


def run_page(name: str) -> dict[str, Any]:
    """Names that the Python examples of a page leave, run one after the other."""
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(compile("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)), name, "exec"), names)
    return names


def test_the_example_of_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_page("training.md")["run"]
    assert run.status == "complete"
    assert set(run.layers()["tap"]) == {"block", "input"}


def test_the_examples_of_lottery_tickets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    names = run_page("lottery-tickets.md")
    table = names["experiment"].table()
    assert table["run"].tolist() == [
        "seed0-round00-ticket", "seed0-round01-ticket", "seed0-round01-reinit", "seed0-round02-ticket",
        "seed0-round02-reinit",
    ]  # fmt: skip
    assert set(table["status"]) == {"complete"}
    assert (tmp_path / "lottery.html").stat().st_size > 10_000
    assert names["masks"].n_kept == round(50_200 * 0.8**3)
    removed = ~names["experiment"].masks("seed0-round02-ticket")["classifier.fc2.weight"]
    weight = names["model"].get_parameter("classifier.fc2.weight")
    weight.data.fill_(1)
    names["keep_removed"]()
    assert ((weight == 0).numpy() == removed).all()


def test_links_of_pages_lead_somewhere() -> None:
    for page in PAGES[1:]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
