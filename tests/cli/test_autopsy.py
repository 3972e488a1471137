"""The verb ``autopsy``: names and runs in, a paragraph, a CSV file and a figure out."""

import pandas as pd
import pytest

from deepprobe.cli import main
from deepprobe.cli.autopsy import AutopsyOptions, _settings
from deepprobe.errors import ConfigError

WORDS = ["--data", "digits", "--limit", "200", "--device", "cpu", "--lr", "1000", "--schedule", "constant"]


def test_a_name_and_a_run_of_it_say_the_same(tmp_path, capsys):
    assert main(["train", "lenet300_100", *WORDS, "--epochs", "1", "--out", str(tmp_path), "--quiet"]) == 0
    run = str(tmp_path / "lenet300_100-seed0")
    files = ["--out", str(tmp_path / "events.csv"), "--figure", str(tmp_path / "autopsy.svg")]
    assert main(["autopsy", "lenet300_100", *WORDS, "--epochs", "1", "--steps", "2", *files]) == 0
    by_name = capsys.readouterr().out
    assert main(["autopsy", run, "--steps", "2"]) == 0
    assert capsys.readouterr().out.replace(run, "lenet300_100") == by_name
    assert "the update is" in by_name
    assert pd.read_csv(tmp_path / "events.csv")["rule"].iloc[0] == "weights-are-overwritten"
    assert (tmp_path / "autopsy.svg").read_bytes().startswith(b"<?xml")
    again = _settings(run, AutopsyOptions(models=(run,)), [run, "--lr", "0.5"])
    assert (again.models, again.lr, again.schedule, again.limit) == (("lenet300_100",), 0.5, "constant", 200)
    with pytest.raises(ConfigError, match="has settings of its own"):
        _settings(run, AutopsyOptions(models=(run,), config=tmp_path / "x.toml"), [run])


def test_who_stops_it_reads_that_the_network_is_untouched(monkeypatch, capsys):
    def stopped(self, context):
        raise KeyboardInterrupt("stopped at step 0; nothing was kept, since no folder was named")

    monkeypatch.setattr("deepprobe.diagnosis.autopsy.observer.Observer.__call__", stopped)
    assert main(["autopsy", "lenet300_100", *WORDS]) == 130
    said = capsys.readouterr().err
    assert "autopsy stopped before the first step was over; the network is untouched" in said
    assert "folder" not in said


def test_wrong_options_are_told_before_any_training(capsys):
    assert main(["autopsy"]) == 2
    assert main(["autopsy", "lenet300_100", "--figure", "a.gif"]) == 2
    assert "--figure a.gif: its name must end in .png, .svg, .pdf" in capsys.readouterr().err
