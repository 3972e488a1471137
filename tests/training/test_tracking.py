"""Trackers are told everything, and cannot end a training."""

from __future__ import annotations

import pandas as pd
import pytest

from deepprobe.records.frame import TIDY
from deepprobe.training import TrainConfig, train

CONFIG = TrainConfig(epochs=2, batch_size=64)


class Notes:
    """Tracker that keeps what it is told."""

    def __init__(self):
        self.started, self.frames, self.finished = None, [], None

    def start(self, name, config):
        self.started = (name, config)

    def log(self, frame):
        self.frames.append(frame)

    def finish(self, status):
        self.finished = status


def test_a_tracker_is_told_the_start_every_row_and_the_end(tmp_path, net, few):
    notes = Notes()
    run = train(net(), few[0], config=CONFIG, out=tmp_path / "r", trackers=[notes], quiet=True)
    assert notes.started == ("r", run.config)
    told = pd.concat(notes.frames, ignore_index=True)
    assert list(told.columns) == list(TIDY)
    pd.testing.assert_series_equal(told["value"], run.records()["value"])
    assert notes.finished == "complete"
    again = Notes()
    train(net(), few[0], config=CONFIG, out=tmp_path / "r", trackers=[again], quiet=True)
    assert again.started is None  # nothing is trained


@pytest.mark.parametrize("verb", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_warned_about_once_and_left_out(net, few, verb):
    broken, notes = Notes(), Notes()

    def fail(*args):
        raise ConnectionError("the service is gone")

    setattr(broken, verb, fail)
    with pytest.warns(UserWarning, match=rf"Notes.{verb} failed and is left out from here on: Conn.*gone") as told:
        run = train(net(), few[0], config=CONFIG, trackers=[broken, notes], quiet=True)
    assert len(told) == 1
    assert run.status == notes.finished == "complete"
