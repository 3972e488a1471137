"""One experiment for all tests of this folder: making it, and reading it, takes longer than any of them."""

from __future__ import annotations

import lottery_experiment as lottery
import pytest

from deepprobe.reports.lottery.source import read_lottery


@pytest.fixture(scope="session")
def experiment(tmp_path_factory):
    """Three seeds, six rounds, complete."""
    return lottery.build(tmp_path_factory.mktemp("lottery") / "e", n_rounds=6)


@pytest.fixture(scope="session")
def read(experiment):
    """What is read of it; nobody writes to its frames."""
    return read_lottery(experiment)
