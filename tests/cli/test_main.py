"""Dispatch, exit codes and one-line errors of the command."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from deepprobe import cli
from deepprobe.errors import ConfigError, ShapeError


def test_help_names_every_verb_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for verb in cli.VERBS:
        assert f"\n  {verb} " in shown.out
    assert shown.out.count("\n  deepprobe ") >= 4


def test_no_verb_shows_the_help_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr() == ("", cli.HELP)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: deepprobe {verb}" in shown
    assert f"deepprobe {verb} " in shown.partition("For example:")[2]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"deepprobe {version('deepprobe')}\n"


def test_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["modls"]) == 2
    assert capsys.readouterr() == ("", "deepprobe: there is no verb 'modls'; did you mean 'models'?\n")


def test_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--al"]) == 2
    assert "--al" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ShapeError("n = 3,\n  but d = 4"), 1, "deepprobe: n = 3, but d = 4\n"),
        (ConfigError("lr=-1"), 2, "deepprobe: lr=-1\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "deepprobe: [Errno 13] Permission denied: '/x'\n"),
        (KeyboardInterrupt(), 130, "deepprobe: interrupted\n"),
        (KeyboardInterrupt("stopped at step 2ep"), 130, "deepprobe: stopped at step 2ep\n"),
    ],
)
def test_errors_are_one_line(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.main(["models"]) == code
    assert capsys.readouterr() == ("", line)


def test_after_ctrl_c_one_process_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(words: list[str]) -> int:
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr(cli, "_dispatch", stop)
    for rank, line in (("0", "deepprobe (rank 0): stopped\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["train"]) == 130
        assert capsys.readouterr() == ("", line)


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_dispatch", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["models"])


def test_a_reader_that_leaves_is_no_error() -> None:
    command = [sys.executable, "-m", "deepprobe", "models"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
