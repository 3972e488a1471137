"""README promises what it can keep: two commands, an example that runs, a name for every skipped test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SKIPS = {"skip", "skipif", "importorskip", "xfail"}


def blocks(language: str) -> list[str]:
    """Contents of README's fenced code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_exactly_two_set_up_commands() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert [line.split("#")[0].strip() for line in lines if line.startswith("make")] == ["make demo", "make test"]


def test_the_notebook_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert {"depth", "layer", "condition_number", "status", "centred_status"} <= set(names["table"].columns)  # type: ignore[attr-defined]
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_examples_of_your_own_model_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "your-own-model.md").read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL))
    names: dict[str, object] = {}
    exec(compile(program, "your-own-model.md", "exec"), names)
    assert names["table"]["layer"].tolist() == ["0", "3"]  # type: ignore[index]
    assert (tmp_path / "report.html").exists()


def test_commands_shown_are_understood() -> None:
    from deepprobe.cli import VERBS

    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("deepprobe")]
    assert {line.split()[1] for line in lines} <= set(VERBS)
    assert len(lines) >= 4


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def skip_reasons(source: str) -> list[str]:
    """Literal reasons of every skip in a test file; ``?`` for one that gives none."""
    reasons = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SKIPS:
            words = [k.value for k in node.keywords if k.arg == "reason"] or node.args[-1:]
            reasons += [w.value if isinstance(w, ast.Constant) and isinstance(w.value, str) else "?" for w in words]
    return reasons


def test_every_skip_has_a_reason_that_the_readme_names() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.name != "test_readme.py":
            for reason in skip_reasons(path.read_text(encoding="utf-8")):
                assert reason in README, f"{path.name} skips for {reason!r}; README does not name it"


def test_a_skip_is_found() -> None:
    source = "@pytest.mark.skipif(x, reason='no GPU')\ndef f():\n    pytest.skip('no data')\n    pytest.skip(why)"
    assert sorted(skip_reasons(source)) == ["?", "no GPU", "no data"]
