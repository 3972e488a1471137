"""The tallies of all trials, printed when the tests are over."""

from __future__ import annotations

import subprocess
import sys

import pytest

LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def tally(request):
    """Function that takes one line for the summary."""
    lines = request.config.stash.setdefault(LINES, [])
    return lines.append


@pytest.fixture
def in_process():
    """Function that runs a script in a fresh Python and returns what it printed; its own error fails the test."""

    def run(script, *arguments, timeout=3000, **environment):
        import os

        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=dict(os.environ) | environment
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(LINES, [])
    if lines:
        terminalreporter.section("reliability")
        for line in lines:
            terminalreporter.write_line(line)
